package ingest

import (
	"slices"
	"testing"
)

// TestCompareObservations checks that each kind of change names its element with the value
// before and after.
func TestCompareObservations(t *testing.T) {
	const before = `{"resourceType":"Observation","id":"a","meta":{"versionId":"1","profile":["p1"]},"status":"final",` +
		`"category":[{"coding":[{"system":"c","code":"activity"}]}],"code":{"coding":[{"system":"http://loinc.org",` +
		`"code":"1"},{"system":"v","code":"own","display":"Own"}],"text":"Own"},"valueQuantity":{"value":62.0,` +
		`"unit":"a","code":"/min"},"component":[{"code":{"coding":[{"system":"x","code":"1"},{"system":"v",` +
		`"code":"deep"}]},"valueQuantity":{"value":5,"unit":"s","code":"s"}},{"code":{"coding":[{"system":"v",` +
		`"code":"rem"}]},"valueQuantity":{"value":7,"unit":"s"}}]}`
	const after = `{"resourceType":"Observation","id":"a","meta":{"versionId":"2","profile":["p2"]},"status":"amended",` +
		`"category":[{"coding":[{"system":"c","code":"vital-signs"}]}],"code":{"coding":[{"system":"http://loinc.org",` +
		`"code":"2"},{"system":"v","code":"own","display":"Mine"}],"text":"Own"},"valueQuantity":{"value":62,` +
		`"unit":"b","code":"/h"},"component":[{"code":{"coding":[{"system":"v","code":"light"}]},"valueQuantity":` +
		`{"value":9,"unit":"s"}},{"code":{"coding":[{"system":"y","code":"1"},{"system":"v","code":"deep"}]},` +
		`"valueQuantity":{"value":6,"unit":"s","code":"s"}}]}`
	got, err := compareObservations([]byte(before), []byte(after))
	if err != nil {
		t.Fatal(err)
	}
	want := []ElementChange{
		{ChangeCategory, "category[activity].coding[c|activity]", "activity", ""},
		{ChangeCategory, "category[vital-signs].coding[c|vital-signs]", "", "vital-signs"},
		{ChangeCodeRemoved, "code.coding[http://loinc.org|1]", "1", ""},
		{ChangeCodeAdded, "code.coding[http://loinc.org|2]", "", "2"},
		{ChangeText, "code.coding[v|own]", "Own", "Mine"},
		{ChangeCodeRemoved, "component[deep].code.coding[x|1]", "1", ""},
		{ChangeCodeAdded, "component[deep].code.coding[y|1]", "", "1"},
		{ChangeValue, "component[deep].valueQuantity.value", "5", "6"},
		{ChangeComponent, "component[light]", "", "9 s"},
		{ChangeComponent, "component[rem]", "7 s", ""},
		{ChangeProfile, "meta.profile[0]", "p1", "p2"},
		{ChangeUnit, "valueQuantity.code", "/min", "/h"},
		{ChangeText, "valueQuantity.unit", "a", "b"},
		{ChangeValue, "valueQuantity.value", "62.0", "62"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("changes\n%v\nwant\n%v", got, want)
	}
	if got, err := compareObservations([]byte(before), []byte(before)); err != nil || len(got) != 0 {
		t.Errorf("an Observation differs from itself: %v %v", got, err)
	}
	if _, err := compareObservations([]byte(before), []byte("{")); err == nil {
		t.Error("a broken Observation was compared")
	}
}

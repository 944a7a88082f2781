package fitbit

import (
	"strings"

	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

// ignored lists the types that are left out on purpose, with the reason. It is
// never modified.
var ignored = map[string]string{
	"food":                  "an entry of the catalog of foods, which measures nobody",
	"food-measurement-unit": "a unit of the catalog of foods",
}

// choices emits one sample for each code in the list member of the body: a
// person may log several symptoms together. The code is part of the identity.
func (p *point) choices(metric, member string) (found bool, err error) {
	list := p.body.Get(member)
	if list == nil {
		return false, nil
	}
	id := p.sample.VendorID
	seen := map[string]bool{}
	for i := range list.List() {
		code := enum(&list.List()[i])
		if code == "" || seen[code] {
			continue
		}
		seen[code] = true
		p.sample.Value = sample.Value{Kind: sample.Code, Text: code}
		if id != "" {
			p.sample.VendorID = id + "/" + code
		} else {
			p.sample.KeyValue = true
		}
		if err := p.emitAs(metric); err != nil {
			return true, err
		}
	}
	p.sample.VendorID = id
	return len(seen) > 0, nil
}

func symptoms(p *point) (*rejection, error) {
	p.sample.UserEntered = true
	found, err := p.choices(p.metric, "symptoms")
	if err == nil && !found {
		return missing("symptoms is required"), nil
	}
	return nil, err
}

// moods emits the moods and their valences as separate samples, because the two
// lists need not correspond.
func moods(p *point) (*rejection, error) {
	p.sample.UserEntered = true
	found, err := p.choices(p.metric, "moods")
	if err != nil {
		return nil, err
	}
	valued, err := p.choices(p.metric+".valence", "valences")
	if err == nil && !found && !valued {
		return missing("moods is required"), nil
	}
	return nil, err
}

// menstrualPeriod emits an event. The notes are free text of the wearer and are
// left out.
func menstrualPeriod(p *point) (*rejection, error) {
	p.sample.UserEntered = true
	return nil, p.emit()
}

func ovulationTest(p *point) (*rejection, error) {
	p.sample.UserEntered = true
	return readCoded(p)
}

// nutrition leaves out the name of the food, which the wearer may have written.
func nutrition(p *point) (*rejection, error) {
	p.sample.UserEntered = true
	if v, ok := number(p.body, "energy", "kcal"); ok && !strings.HasPrefix(v, "-") {
		p.sample.Value = sample.Value{Kind: sample.Number, Num: v, Unit: "kcal"}
	}
	p.number("energyFromFat", "kcal", "energyFromFat", "kcal")
	p.number("totalCarbohydrate", "g", "totalCarbohydrate", "grams")
	p.number("totalFat", "g", "totalFat", "grams")
	p.code("mealType", "mealType")
	p.nutrients("grams")
	if p.sample.Value.Kind == sample.None && len(p.sample.Components) == 0 {
		return missing("neither energy nor nutrients"), nil
	}
	return nil, p.emit()
}

// nutrients adds a component for each nutrient. amount is the member of the
// quantity.
func (p *point) nutrients(amount string) {
	list := p.body.Get("nutrients")
	if list == nil {
		return
	}
	for i := range list.List() {
		if name := enum(list.List()[i].Get("nutrient")); name != "" {
			p.numberOf(name, "g", list.List()[i].Get("quantity", amount))
		}
	}
}

// rolledNutrition sets the sums of a window.
func (p *point) rolledNutrition() *rejection {
	if v, ok := number(p.body, "energy", "kcalSum"); ok {
		p.sample.Value = sample.Value{Kind: sample.Number, Num: v, Unit: "kcal"}
	}
	p.number("energyFromFat", "kcal", "energyFromFat", "kcalSum")
	p.number("totalCarbohydrate", "g", "totalCarbohydrate", "gramsSum")
	p.number("totalFat", "g", "totalFat", "gramsSum")
	p.nutrients("gramsSum")
	if p.sample.Value.Kind == sample.None && len(p.sample.Components) == 0 {
		return missing("neither energy nor nutrients")
	}
	return nil
}

// skinSensors emits one sample for each reading of a sensor on the skin. The
// sensor inside the device measures its surroundings.
func skinSensors(p *point) (*rejection, error) {
	list := p.body.Get("sensorData")
	if list == nil || len(list.List()) == 0 {
		return missing("sensorData is required"), nil
	}
	p.sample.KeyValue = true
	for i := range list.List() {
		reading := &list.List()[i]
		if reading.Get("metadata", "sensorType").String() == "INTERNAL_DEVICE_TEMPERATURE_SENSOR" {
			p.dec.sink.Drop(sample.DropIgnored, p.metric, 1)
			continue
		}
		v, state := reading.Get("temperatureCelsius").Decimal()
		if state != jsonitem.Given {
			return &rejection{sample.ReasonBadValue, "temperatureCelsius is not a number"}, nil
		}
		p.sample.Value = sample.Value{Kind: sample.Number, Num: v, Unit: "Cel"}
		p.sample.Components = p.sample.Components[:0]
		for _, name := range []string{"measurementLocation", "measurementState"} {
			if c := enum(reading.Get("metadata", name)); c != "" {
				p.add(name, sample.Value{Kind: sample.Code, Text: c})
			}
		}
		if err := p.emit(); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

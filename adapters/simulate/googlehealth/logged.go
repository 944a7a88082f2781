package googlehealth

import "time"

// cycle is the length of a menstrual cycle in days.
const cycle = 28

// logged draws the types that a wearer enters in the app, which is connected then. It
// reports false for other types.
func (c *content) logged() bool {
	k := c.key()
	day, zone := c.model.day, c.wearer.Zone
	inCycle := (int(day) + c.wearer.Key.Named("cycle").Between(0, cycle-1)) % cycle
	evening := day.At(zone, 21, k.Named("at").Between(0, 50))
	switch c.typ {
	case "hydration-log":
		for n := range k.Between(0, 3) {
			c.entry(day.At(zone, 9+3*n, k.With(n).Between(0, 59)), n, object{"amountConsumed": object{
				"milliliters": 100 * k.With(n, 1).Between(1, 5), "userProvidedUnit": "MILLILITER"}})
		}
	case "nutrition-log":
		for n, meal := range []string{"BREAKFAST", "LUNCH", "DINNER"} {
			if k.Named("meal").With(n).Chance(0.4) {
				c.entry(day.At(zone, 8+5*n, k.With(n).Between(0, 59)), n, c.meal(meal, n))
			}
		}
	case "symptoms":
		if k.Named("logged").Chance(0.1) {
			c.instant(evening, object{"symptoms": []any{"HEADACHE",
				[]string{"COUGH", "FEVER", "BLOATED"}[k.Between(0, 2)]}})
		}
	case "moods":
		if k.Named("logged").Chance(0.2) {
			n := k.Between(0, 2)
			c.instant(evening, object{"moods": []any{[]string{"HAPPY", "CONTENT", "WORRIED"}[n]},
				"valences": []any{[]string{"PLEASANT", "PLEASANT", "UNPLEASANT"}[n]}})
		}
	case "menstrual-period":
		if c.wearer.Index%2 == 1 && inCycle == 0 {
			end := (day + 5).At(zone, 0, 0)
			p := c.identify(c.add(day.At(zone, 0, 0), end, c.wearer.manual, object{}), 0)
			p.at = end
		}
	case "ovulation-test":
		if c.wearer.Index%2 == 1 && inCycle >= 12 && inCycle <= 14 {
			c.instant(evening, object{"result": []string{"NEGATIVE", "LUTEINIZING_HORMONE_SURGE",
				"POSITIVE"}[inCycle-12]})
		}
	default:
		return false
	}
	return true
}

// entry adds a logged point of a minute.
func (c *content) entry(at time.Time, n int, body object) {
	p := c.identify(c.add(at, at.Add(time.Minute), c.wearer.manual, body), n)
	p.at = p.end
}

// instant adds a logged point without a length.
func (c *content) instant(at time.Time, body object) {
	p := c.identify(c.add(at, at, c.wearer.manual, body), 0)
	p.at = at
}

// meal returns the members of a logged meal.
func (c *content) meal(name string, n int) object {
	k := c.key().Named(name)
	grams := func(v int) object { return object{"grams": v} }
	carbohydrate, fat, protein := k.With(1).Between(20, 110), k.With(2).Between(3, 45), k.With(3).Between(5, 60)
	return object{"mealType": name, "foodDisplayName": "Meal " + i64(n+1),
		"energy":            object{"kcal": 4*carbohydrate + 9*fat + 4*protein, "userProvidedUnit": "KILOCALORIE"},
		"totalCarbohydrate": grams(carbohydrate), "totalFat": grams(fat),
		"nutrients": []any{object{"nutrient": "PROTEIN", "quantity": grams(protein)}}}
}

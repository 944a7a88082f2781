package apple

import (
	"bytes"
	"strconv"

	"pulsegate/mapping/sample"
)

// entries reads pairs of key and value of HealthKit metadata, written as in an
// export: quantities as "418 cm", booleans as 0 or 1, enumerations as integers.
type entries struct {
	clock  *clock
	names  *interner
	values *numberStrings
	// reject reports a component that is left out.
	reject func(metric, component, rule string)
}

// metaKey returns a metadata key without Apple's prefix, which not all exports
// have.
func metaKey(b []byte) []byte {
	if rest, ok := bytes.CutPrefix(b, []byte("HKMetadataKey")); ok {
		return rest
	}
	rest, _ := bytes.CutPrefix(b, []byte("HK"))
	return rest
}

// metaCodes, metaQuantities and metaFlags map metadata keys to components.
var (
	metaCodes = map[string]string{
		"HeartRateMotionContext": "motionContext", "UserMotionContext": "userMotionContext",
		"BloodGlucoseMealTime": "mealTime", "InsulinDeliveryReason": "insulinReason",
		"HeartRateSensorLocation": "sensorLocation", "BodyTemperatureSensorLocation": "sensorLocation",
		"HeartRateRecoveryTestType": "testType", "CyclingFunctionalThresholdPowerTestType": "testType",
		"PhysicalEffortEstimationType": "estimationType", "DevicePlacementSide": "placementSide",
		"WaterSalinity": "waterSalinity",
	}
	metaQuantities = map[string]string{
		"BarometricPressure": "barometricPressure", "HeartRateEventThreshold": "threshold",
		"LowCardioFitnessEventThreshold": "threshold", "AudioExposureLevel": "threshold",
		"AudioExposureDuration": "exposureDuration", "VO2MaxValue": "vo2Max", "AverageMETs": "averageMETs",
		"ElevationAscended": "elevationAscended", "ElevationDescended": "elevationDescended",
		"WeatherTemperature": "weatherTemperature", "WeatherHumidity": "weatherHumidity",
		"HeartRateRecoveryActivityDuration":             "activityDuration",
		"HeartRateRecoveryMaxObservedRecoveryHeartRate": "maximumHeartRate",
	}
	metaFlags = map[string]string{
		"IndoorWorkout": "indoor", "MenstrualCycleStart": "cycleStart",
		"SexualActivityProtectionUsed": "protectionUsed",
		"QuantityClampedToLowerBound":  "clampedToLowerBound", "QuantityClampedToUpperBound": "clampedToUpperBound",
	}
)

// add reads one pair of key and value of r's metadata.
func (e *entries) add(r *record, key, val []byte) {
	k := metaKey(key)
	switch string(k) {
	case "TimeZone":
		if loc := e.clock.iana(e.names.get(val)); loc != nil {
			r.sample.IANA = e.names.get(val)
			r.sample.Zone = sample.ZoneStated
			r.sample.Start = inOffset(e.clock, r.sample.Start, loc)
			if !r.sample.End.IsZero() {
				r.sample.End = inOffset(e.clock, r.sample.End, loc)
			}
		}
	case "WasUserEntered":
		r.sample.UserEntered = string(val) == "1"
	case "SyncIdentifier":
		r.syncID = string(val)
	case "SyncVersion":
		if n, err := strconv.ParseInt(string(val), 10, 64); err == nil && n > 0 {
			r.version = n
		}
	case "ExternalUUID":
		r.external = string(val)
	case "VO2MaxTestType":
		r.sample.Method = vo2Method(val)
	default:
		if name := metaCodes[string(k)]; name != "" {
			r.component(name, code(e.names.get(val)))
		} else if name := metaQuantities[string(k)]; name != "" {
			e.quantity(r, name, val)
		} else if name := metaFlags[string(k)]; name != "" {
			r.component(name, sample.Value{Kind: sample.Boolean, Bool: string(val) == "1"})
		}
	}
}

// vo2Method returns the method for a value of HKVO2MaxTestType.
func vo2Method(v []byte) string {
	switch string(v) {
	case "1":
		return "maxExercise"
	case "2":
		return "predictionSubMaxExercise"
	case "3":
		return "predictionNonExercise"
	case "4":
		return "predictionStepTest"
	}
	return ""
}

// component adds a component. The first of several with the same name counts.
func (r *record) component(name string, v sample.Value) {
	if v.Kind == sample.Code && v.Text == "" {
		return
	}
	for i := range r.sample.Components {
		if r.sample.Components[i].Name == name {
			return
		}
	}
	r.sample.Components = append(r.sample.Components, sample.Component{Name: name, Value: v})
}

// quantity adds a component with a value such as "101.3 kPa".
func (e *entries) quantity(r *record, name string, b []byte) {
	num, unit, ok := quantity(b)
	if !ok {
		e.reject(r.sample.Metric, name, "the value is not a decimal with a unit")
		return
	}
	n := e.values.get(num)
	if name == "weatherHumidity" {
		n = percentOfHumidity(n)
	}
	r.component(name, number(n, e.names.get(unit)))
}

// percentOfHumidity returns a humidity in percent. Since 2018 the system writes
// percent times 100: "9400 %" is 94 %.
func percentOfHumidity(n string) string {
	if f, err := strconv.ParseFloat(n, 64); err == nil && f > 100 {
		return strconv.FormatFloat(f/100, 'f', -1, 64)
	}
	return n
}

package apple

import (
	"maps"
	"strconv"
	"strings"

	"pulsegate/mapping/sample"
)

// Prefixes and names of HealthKit's types.
const (
	prefixQuantity = "HKQuantityTypeIdentifier"
	prefixCategory = "HKCategoryTypeIdentifier"
	prefixActivity = "HKWorkoutActivityType"

	typeFood        = "HKCorrelationTypeIdentifierFood"
	typeWorkout     = "HKWorkoutTypeIdentifier"
	typeAudiogram   = "HKDataTypeIdentifierAudiogram"
	typeStateOfMind = "HKDataTypeStateOfMind"
	typeDose        = "HKMedicationDoseEventTypeIdentifierMedicationDoseEvent"
	typePHQ9        = "HKScoredAssessmentTypeIdentifierPHQ9"
	typeGAD7        = "HKScoredAssessmentTypeIdentifierGAD7"
	typeSleep       = prefixCategory + "SleepAnalysis"
)

// notApplicable is the value of categories that state only that something
// happened. Some exports write it and some omit it, so that it counts as no value.
const notApplicable = "HKCategoryValueNotApplicable"

// ignored lists the types of HealthKit that no format reads, with the reasons.
var ignored = map[string]string{
	"HKCharacteristicTypeIdentifierActivityMoveMode":    "a setting of the wearer, not a measurement",
	"HKCharacteristicTypeIdentifierBiologicalSex":       "the Patient states it",
	"HKCharacteristicTypeIdentifierBloodType":           "entered by the wearer, not measured",
	"HKCharacteristicTypeIdentifierDateOfBirth":         "the Patient states it",
	"HKCharacteristicTypeIdentifierFitzpatrickSkinType": "entered by the wearer, not measured",
	"HKCharacteristicTypeIdentifierWheelchairUse":       "a setting of the wearer, not a measurement",
	"HKClinicalTypeIdentifierAllergyRecord":             reasonClinical,
	"HKClinicalTypeIdentifierClinicalNoteRecord":        reasonClinical,
	"HKClinicalTypeIdentifierConditionRecord":           reasonClinical,
	"HKClinicalTypeIdentifierCoverageRecord":            reasonClinical,
	"HKClinicalTypeIdentifierImmunizationRecord":        reasonClinical,
	"HKClinicalTypeIdentifierLabResultRecord":           reasonClinical,
	"HKClinicalTypeIdentifierMedicationRecord":          reasonClinical,
	"HKClinicalTypeIdentifierProcedureRecord":           reasonClinical,
	"HKClinicalTypeIdentifierVitalSignRecord":           reasonClinical,
	"HKDocumentTypeIdentifierCDA":                       reasonClinical,
	typeFood:                                            "its nutrients are samples of their own",
	"HKDataTypeIdentifierHeartbeatSeries":               "an irregular series of beats",
	"HKDataTypeUserAnnotatedMedicationConcept":          "a list of medications; doses are samples of their own",
	"HKVisionPrescriptionTypeIdentifier":                "a prescription, not a measurement",
	"HKWorkoutRouteTypeIdentifier":                      "its points are not kept; a workout has the summary of its routes, and workout.route their ends and bounds",
}

// LeftOut returns the types of HealthKit that no format reads, with the reasons.
func LeftOut() map[string]string { return maps.Clone(ignored) }

// reasonClinical is the reason for leaving out records of care providers.
const reasonClinical = "a record of a care provider, which has it first-hand"

// isHalf reports whether a type is one half of a blood pressure.
func isHalf(metric string) bool { return metric == typeSystolic || metric == typeDiastolic }

// enums holds the values of HealthKit's enumerations of categories in the order of
// their integers, which begin at first (HKCategoryValues.h). An export writes
// HKCategoryValue, the enumeration and the value.
var enums = map[string]struct {
	first  int
	values []string
}{
	"AppetiteChanges":             {0, []string{"Unspecified", "NoChange", "Decreased", "Increased"}},
	"AppleStandHour":              {0, []string{"Stood", "Idle"}},
	"AppleWalkingSteadinessEvent": {1, []string{"InitialLow", "InitialVeryLow", "RepeatLow", "RepeatVeryLow"}},
	"CervicalMucusQuality":        {1, []string{"Dry", "Sticky", "Creamy", "Watery", "EggWhite"}},
	"Contraceptive": {1,
		[]string{"Unspecified", "Implant", "Injection", "IntrauterineDevice", "IntravaginalRing", "Oral", "Patch"}},
	"EnvironmentalAudioExposureEvent": {1, []string{"MomentaryLimit"}},
	"HeadphoneAudioExposureEvent":     {1, []string{"SevenDayLimit"}},
	"LowCardioFitnessEvent":           {1, []string{"LowFitness"}},
	"OvulationTestResult": {1,
		[]string{"Negative", "LuteinizingHormoneSurge", "Indeterminate", "EstrogenSurge"}},
	"PregnancyTestResult":    {1, []string{"Negative", "Positive", "Indeterminate"}},
	"Presence":               {0, []string{"Present", "NotPresent"}},
	"ProgesteroneTestResult": {1, []string{"Negative", "Positive", "Indeterminate"}},
	"Severity":               {0, []string{"Unspecified", "NotPresent", "Mild", "Moderate", "Severe"}},
	"SleepAnalysis": {0,
		[]string{"InBed", "AsleepUnspecified", "Awake", "AsleepCore", "AsleepDeep", "AsleepREM"}},
	"VaginalBleeding": {1, []string{"Unspecified", "Light", "Medium", "Heavy", "None"}},
}

// enumOf maps the categories, without their prefix, to their enumerations. An empty
// one is HKCategoryValue, which has the value notApplicable only.
var enumOf = map[string]string{
	"HandwashingEvent":                   "",
	"HighHeartRateEvent":                 "",
	"HypertensionEvent":                  "",
	"InfrequentMenstrualCycles":          "",
	"IntermenstrualBleeding":             "",
	"IrregularHeartRhythmEvent":          "",
	"IrregularMenstrualCycles":           "",
	"Lactation":                          "",
	"LowHeartRateEvent":                  "",
	"MindfulSession":                     "",
	"PersistentIntermenstrualBleeding":   "",
	"Pregnancy":                          "",
	"ProlongedMenstrualPeriods":          "",
	"SexualActivity":                     "",
	"SleepApneaEvent":                    "",
	"ToothbrushingEvent":                 "",
	"AppetiteChanges":                    "AppetiteChanges",
	"AppleStandHour":                     "AppleStandHour",
	"AppleWalkingSteadinessEvent":        "AppleWalkingSteadinessEvent",
	"CervicalMucusQuality":               "CervicalMucusQuality",
	"Contraceptive":                      "Contraceptive",
	"AudioExposureEvent":                 "EnvironmentalAudioExposureEvent",
	"EnvironmentalAudioExposureEvent":    "EnvironmentalAudioExposureEvent",
	"HeadphoneAudioExposureEvent":        "HeadphoneAudioExposureEvent",
	"LowCardioFitnessEvent":              "LowCardioFitnessEvent",
	"MenstrualFlow":                      "VaginalBleeding",
	"OvulationTestResult":                "OvulationTestResult",
	"PregnancyTestResult":                "PregnancyTestResult",
	"MoodChanges":                        "Presence",
	"SleepChanges":                       "Presence",
	"ProgesteroneTestResult":             "ProgesteroneTestResult",
	"AbdominalCramps":                    "Severity",
	"Acne":                               "Severity",
	"BladderIncontinence":                "Severity",
	"Bloating":                           "Severity",
	"BreastPain":                         "Severity",
	"ChestTightnessOrPain":               "Severity",
	"Chills":                             "Severity",
	"Constipation":                       "Severity",
	"Coughing":                           "Severity",
	"Diarrhea":                           "Severity",
	"Dizziness":                          "Severity",
	"DrySkin":                            "Severity",
	"Fainting":                           "Severity",
	"Fatigue":                            "Severity",
	"Fever":                              "Severity",
	"GeneralizedBodyAche":                "Severity",
	"HairLoss":                           "Severity",
	"Headache":                           "Severity",
	"Heartburn":                          "Severity",
	"HotFlashes":                         "Severity",
	"LossOfSmell":                        "Severity",
	"LossOfTaste":                        "Severity",
	"LowerBackPain":                      "Severity",
	"MemoryLapse":                        "Severity",
	"Nausea":                             "Severity",
	"NightSweats":                        "Severity",
	"PelvicPain":                         "Severity",
	"RapidPoundingOrFlutteringHeartbeat": "Severity",
	"RunnyNose":                          "Severity",
	"ShortnessOfBreath":                  "Severity",
	"SinusCongestion":                    "Severity",
	"SkippedHeartbeat":                   "Severity",
	"SoreThroat":                         "Severity",
	"VaginalDryness":                     "Severity",
	"Vomiting":                           "Severity",
	"Wheezing":                           "Severity",
	"SleepAnalysis":                      "SleepAnalysis",
	"BleedingAfterPregnancy":             "VaginalBleeding",
	"BleedingDuringPregnancy":            "VaginalBleeding",
}

// categoryName returns the name of an integer value of a category as an export
// writes it. ok is false if the category is known and has no such value. The
// name of notApplicable is "".
func categoryName(metric string, n int) (name string, ok bool) {
	enum, known := enumOf[strings.TrimPrefix(metric, prefixCategory)]
	switch {
	case !known:
		return strconv.Itoa(n), true
	case enum == "":
		return "", n == 0
	}
	e := enums[enum]
	if n < e.first || n >= e.first+len(e.values) {
		return "", false
	}
	return "HKCategoryValue" + enum + e.values[n-e.first], true
}

// squash returns the letters and digits of s in lower case, so that spellings of one
// name are equal: "in_bed", "inBed" and "In Bed".
func squash(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		}
		return -1
	}, s)
}

// activities holds the names of HKWorkoutActivityType by integer
// (HKWorkoutActivityType.h). Number 81 does not exist.
var activities = []string{
	"", "AmericanFootball", "Archery", "AustralianFootball", "Badminton", "Baseball", "Basketball", "Bowling",
	"Boxing", "Climbing", "Cricket", "CrossTraining", "Curling", "Cycling", "Dance", "DanceInspiredTraining",
	"Elliptical", "EquestrianSports", "Fencing", "Fishing", "FunctionalStrengthTraining", "Golf", "Gymnastics",
	"Handball", "Hiking", "Hockey", "Hunting", "Lacrosse", "MartialArts", "MindAndBody",
	"MixedMetabolicCardioTraining", "PaddleSports", "Play", "PreparationAndRecovery", "Racquetball", "Rowing",
	"Rugby", "Running", "Sailing", "SkatingSports", "SnowSports", "Soccer", "Softball", "Squash", "StairClimbing",
	"SurfingSports", "Swimming", "TableTennis", "Tennis", "TrackAndField", "TraditionalStrengthTraining",
	"Volleyball", "Walking", "WaterFitness", "WaterPolo", "WaterSports", "Wrestling", "Yoga", "Barre",
	"CoreTraining", "CrossCountrySkiing", "DownhillSkiing", "Flexibility", "HighIntensityIntervalTraining",
	"JumpRope", "Kickboxing", "Pilates", "Snowboarding", "Stairs", "StepTraining", "WheelchairWalkPace",
	"WheelchairRunPace", "TaiChi", "MixedCardio", "HandCycling", "DiscSports", "FitnessGaming", "CardioDance",
	"SocialDance", "Pickleball", "Cooldown", "", "SwimBikeRun", "Transition", "UnderwaterDiving",
}

// activityOther is the integer of HKWorkoutActivityTypeOther.
const activityOther = 3000

// activityOf returns the name of an integer of HKWorkoutActivityType as an export
// writes it, or "".
func activityOf(n int) string {
	switch {
	case n == activityOther:
		return prefixActivity + "Other"
	case n > 0 && n < len(activities) && activities[n] != "":
		return prefixActivity + activities[n]
	}
	return ""
}

// activityNamed returns the activity that a channel calls name ("running",
// "american football", "high_intensity_interval_training"), or name.
func activityNamed(name string) string {
	s := strings.TrimPrefix(squash(name), "hkworkoutactivitytype")
	for _, a := range activities {
		if a != "" && strings.EqualFold(a, s) {
			return prefixActivity + a
		}
	}
	if s == "other" {
		return prefixActivity + "Other"
	}
	return name
}

// categoryNamed returns the category that a channel calls name ("Menstrual Flow",
// "headache"), or "".
func categoryNamed(name string) string {
	s := squash(name)
	for c := range enumOf {
		if strings.EqualFold(c, s) {
			return prefixCategory + c
		}
	}
	return ""
}

// categoryValueNamed returns the value of a category that a channel calls name
// ("Mild", "Not Present"), spelled as in an export.
func categoryValueNamed(metric, name string) (string, bool) {
	enum := enumOf[strings.TrimPrefix(metric, prefixCategory)]
	for _, v := range enums[enum].values {
		if strings.EqualFold(v, squash(name)) {
			return "HKCategoryValue" + enum + v, true
		}
	}
	return "", false
}

// isType reports whether s is written like an identifier of a HealthKit type. Other
// texts are never copied from a payload into a metric.
func isType(s string) bool {
	if len(s) > 96 || !strings.HasPrefix(s, "HK") {
		return false
	}
	return len(squash(s)) == len(s)
}

// uuid returns a HealthKit UUID in upper case, as HealthKit prints it.
func uuid(s string) (string, bool) {
	if len(s) != 36 {
		return "", false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return "", false
			}
		case (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'f'):
			return "", false
		}
	}
	return strings.ToUpper(s), true
}

// missing, badValue and badTime return the reason for rejecting an item.
func missing(rule string) *itemError  { return &itemError{sample.ReasonMissing, rule} }
func badValue(rule string) *itemError { return &itemError{sample.ReasonBadValue, rule} }
func badTime(rule string) *itemError  { return &itemError{sample.ReasonBadTime, rule} }

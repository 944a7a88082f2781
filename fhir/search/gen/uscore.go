package main

// usCore holds the search parameters of US Core that R4 does not define (US Core 6.1.0,
// 7.0.0 and 9.0.0, CC0). The others have R4's code, type and meaning. Read only.
var usCore = []*searchParameter{
	usCoreParam("us-core-careteam-role", "CareTeam", "role", "token", "CareTeam.participant.role"),
	usCoreParam("us-core-condition-asserted-date", "Condition", "asserted-date", "date",
		"Condition.extension.where(url = 'http://hl7.org/fhir/StructureDefinition/condition-assertedDate').value"),
	usCoreParam("us-core-encounter-discharge-disposition", "Encounter", "discharge-disposition", "token",
		"Encounter.hospitalization.dischargeDisposition"),
	usCoreParam("us-core-ethnicity", "Patient", "ethnicity", "token", "Patient.extension.where("+
		"url = 'http://hl7.org/fhir/us/core/StructureDefinition/us-core-ethnicity').extension.value.code"),
	usCoreParam("us-core-goal-description", "Goal", "description", "token", "Goal.description"),
	usCoreParam("us-core-patient-gender-identity", "Patient", "gender-identity", "token", "Patient.extension.where("+
		"url='http://hl7.org/fhir/us/core/StructureDefinition/us-core-genderIdentity').value.coding.code"),
	usCoreParam("us-core-race", "Patient", "race", "token", "Patient.extension.where("+
		"url = 'http://hl7.org/fhir/us/core/StructureDefinition/us-core-race').extension.value.code"),
}

func usCoreParam(id, base, code, typ, expression string) *searchParameter {
	return &searchParameter{URL: "http://hl7.org/fhir/us/core/SearchParameter/" + id, Code: code, Type: typ,
		Expression: expression, Base: []string{base}}
}

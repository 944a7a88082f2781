package main

// order lists the payloads to ingest, one of each vendor format.
var order = []struct{ vendor, file string }{
	{"apple", "export.xml"},
	{"apple", "hae.json"},
	{"fitbit", "list_heart-rate.json"},
	{"fitbit", "list_sleep.json"},
	{"oura", "sleep.json"},
	{"oura", "heartrate.json"},
}

var payloads = map[string][]byte{
	"export.xml": []byte(`<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE HealthData [
<!ELEMENT HealthData (ExportDate,Me,(Record|Correlation|Workout)*)>
]>
<HealthData locale="en_DE">
 <ExportDate value="2026-10-05 09:00:00 +0200"/>
 <Me HKCharacteristicTypeIdentifierDateOfBirth="1980-02-29"/>
 <Record type="HKQuantityTypeIdentifierHeartRate" sourceName="Ada’s Watch" sourceVersion="11.0" device="&lt;&lt;HKDevice: 0x3012772a0&gt;, name:Apple Watch, manufacturer:Apple Inc., model:Watch, hardware:Watch6,7, software:11.0&gt;" unit="count/min" creationDate="2026-10-01 08:00:05 +0200" startDate="2026-10-01 08:00:00 +0200" endDate="2026-10-01 08:00:00 +0200" value="62"/>
 <Record type="HKQuantityTypeIdentifierHeartRate" sourceName="Ada’s Watch" sourceVersion="11.0" device="&lt;&lt;HKDevice: 0x3012772b0&gt;, name:Apple Watch, manufacturer:Apple Inc., model:Watch, hardware:Watch6,7, software:11.0&gt;" unit="count/min" creationDate="2026-10-01 08:05:05 +0200" startDate="2026-10-01 08:05:00 +0200" endDate="2026-10-01 08:05:00 +0200" value="64"/>
 <Record type="HKQuantityTypeIdentifierOxygenSaturation" sourceName="Ada’s Watch" sourceVersion="11.0" unit="%" creationDate="2026-10-01 03:00:05 +0200" startDate="2026-10-01 03:00:00 +0200" endDate="2026-10-01 03:00:00 +0200" value="0.97"/>
 <Record type="HKQuantityTypeIdentifierStepCount" sourceName="Ada’s iPhone" sourceVersion="19.0" unit="count" creationDate="2026-10-01 12:10:05 +0200" startDate="2026-10-01 12:00:00 +0200" endDate="2026-10-01 12:10:00 +0200" value="812"/>
 <Record type="HKQuantityTypeIdentifierBodyMass" sourceName="Scale" unit="kg" creationDate="2026-10-01 07:00:05 +0200" startDate="2026-10-01 07:00:00 +0200" endDate="2026-10-01 07:00:00 +0200" value="70.5"/>
</HealthData>
`),
	"hae.json":             []byte(`{"data":{"metrics":[{"name":"respiratory_rate","units":"count/min","data":[{"date":"2026-10-02 03:00:00 +0200","qty":14.5,"source":"Ada's Watch"}]},{"name":"blood_pressure","units":"mmHg","data":[{"date":"2026-10-02 08:00:00 +0200","systolic":121,"diastolic":79,"source":"Cuff"}]}],"workouts":[]}}`),
	"list_heart-rate.json": []byte(`{"dataPoints":[{"dataSource":{"recordingMethod":"PASSIVELY_MEASURED","platform":"FITBIT","device":{"displayName":"Charge 6"}},"heartRate":{"sampleTime":{"physicalTime":"2026-10-01T10:00:00Z","utcOffset":"7200s"},"beatsPerMinute":"71"}},{"dataSource":{"recordingMethod":"PASSIVELY_MEASURED","platform":"FITBIT","device":{"displayName":"Charge 6"}},"heartRate":{"sampleTime":{"physicalTime":"2026-10-01T10:00:05Z","utcOffset":"7200s"},"beatsPerMinute":"72"}}]}`),
	"list_sleep.json":      []byte(`{"dataPoints":[{"name":"users/1/dataTypes/sleep/dataPoints/880851835817","dataSource":{"recordingMethod":"DERIVED","platform":"FITBIT","device":{"displayName":"Charge 6"}},"sleep":{"interval":{"startTime":"2026-10-01T21:00:00Z","startUtcOffset":"7200s","endTime":"2026-10-02T05:00:00Z","endUtcOffset":"7200s"},"type":"STAGES","stages":[{"startTime":"2026-10-01T21:00:00Z","startUtcOffset":"7200s","endTime":"2026-10-02T00:00:00Z","endUtcOffset":"7200s","type":"LIGHT"},{"startTime":"2026-10-02T00:00:00Z","startUtcOffset":"7200s","endTime":"2026-10-02T03:00:00Z","endUtcOffset":"7200s","type":"DEEP"},{"startTime":"2026-10-02T03:00:00Z","startUtcOffset":"7200s","endTime":"2026-10-02T05:00:00Z","endUtcOffset":"7200s","type":"REM"}],"metadata":{"processed":true,"mainSleep":true,"stagesStatus":"SUCCEEDED"},"summary":{"minutesInSleepPeriod":"480","minutesAsleep":"480","minutesAwake":"0","minutesToFallAsleep":"0","stagesSummary":[{"type":"LIGHT","minutes":"180","count":"1"},{"type":"DEEP","minutes":"180","count":"1"},{"type":"REM","minutes":"120","count":"1"}]},"createTime":"2026-10-02T05:30:00Z","updateTime":"2026-10-02T05:30:00Z"}}]}`),
	"sleep.json":           []byte(`{"data":[{"id":"5f0a1c1e-0001","average_breath":13.5,"average_heart_rate":55.25,"average_hrv":48,"awake_time":1800,"bedtime_start":"2026-10-01T23:00:00+02:00","bedtime_end":"2026-10-02T07:00:00+02:00","day":"2026-10-02","deep_sleep_duration":5400,"light_sleep_duration":14400,"rem_sleep_duration":7200,"total_sleep_duration":27000,"time_in_bed":28800,"latency":600,"efficiency":94,"heart_rate":{"interval":300.0,"items":[58.0,null,55.0],"timestamp":"2026-10-01T23:00:00.000+02:00"},"hrv":{"interval":300.0,"items":[40.0,null,52.0],"timestamp":"2026-10-01T23:00:00.000+02:00"},"low_battery_alert":false,"lowest_heart_rate":49,"period":0,"type":"long_sleep","sleep_phase_5_min":"4222111333"}],"next_token":null}`),
	"heartrate.json":       []byte(`{"data":[{"timestamp":"2026-10-01T08:00:00+00:00","timestamp_unix":1790841600000,"bpm":66,"source":"awake"},{"timestamp":"2026-10-01T08:05:00+00:00","timestamp_unix":1790841900000,"bpm":67,"source":"awake"}],"next_token":null}`),
}

package apple

const appHAE = "Health Auto Export"

// haeChoices returns what to choose in an automation of Health Auto Export
// (help.healthyapps.dev, "Sync Apple Health Data to REST API"). Without aggregation
// the app sends every sample, and the default period sends yesterday again, so that
// samples that reach the phone late arrive too.
func haeChoices() [][2]string {
	return [][2]string{
		{"Automation type", "REST API"},
		{"Data type", "Health Metrics; add an automation with the same URL and header for each other type"},
		{"Export format", "JSON"},
		{"Export version", "Version 2"},
		{"Period (date range)", "Default, which is yesterday and today"},
		{"Aggregation (summarize data)", "Off; if it must be on, choose Minutes or Hours"},
		{"Batch requests", "On"},
	}
}

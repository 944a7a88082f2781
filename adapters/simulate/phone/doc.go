// Package phone simulates an iPhone that pushes Apple Health data to a server with a
// fixed header: as Health Auto Export, or as a companion app.
//
// The phone pushes at the syncs of its wearer. When it has been offline or the server has
// failed, the next batch begins where the last acknowledged one ended, so that batches
// overlap if an answer was lost. Everything is a function of the wearer and the time;
// Phone.Truth lists what the server must hold.
//
//	health-auto-export  three automations per sync: heart rates by minute, since the last
//	                    sync with half an hour again; steps, energy, resting heart rate,
//	                    heart rate variability and nights by day, with today's values
//	                    growing; workouts
//	companion           batches of HealthKit samples with UUIDs, and deletions: weights that
//	                    the wearer removes, and nights that the watch writes again
package phone

package ingest

// Counts of one metric.
type Counts struct {
	Read        int `json:"read"`
	Created     int `json:"created"`
	Updated     int `json:"updated"`
	Unchanged   int `json:"unchanged"`
	Quarantined int `json:"quarantined"`
	Dropped     int `json:"dropped"`
	// LeftOut counts components, not samples: parts of a panel or workout
	// that broke a rule or were not measured, while the rest was taken.
	LeftOut int `json:"leftOut"`
}

func (c *Counts) add(other Counts) {
	c.Read += other.Read
	c.Created += other.Created
	c.Updated += other.Updated
	c.Unchanged += other.Unchanged
	c.Quarantined += other.Quarantined
	c.Dropped += other.Dropped
	c.LeftOut += other.LeftOut
}

// Summary of a run. Read is samples and rejects; what is dropped inside the
// decoder counts as read too.
type Summary struct {
	Counts
	ByMetric map[string]Counts `json:"byMetric"`
	Seconds  float64           `json:"seconds"`
}

// Add adds another run's figures.
func (s *Summary) Add(other Summary) {
	s.Counts.add(other.Counts)
	s.Seconds += other.Seconds
	for m, c := range other.ByMetric {
		s.count(m, c)
	}
}

func (s *Summary) count(metric string, c Counts) {
	if s.ByMetric == nil {
		s.ByMetric = map[string]Counts{}
	}
	sum := s.ByMetric[metric]
	sum.add(c)
	s.ByMetric[metric] = sum
}

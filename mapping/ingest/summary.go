package ingest

// Counts holds the figures of one metric.
type Counts struct {
	Read        int `json:"read"`
	Created     int `json:"created"`
	Updated     int `json:"updated"`
	Unchanged   int `json:"unchanged"`
	Quarantined int `json:"quarantined"`
	Dropped     int `json:"dropped"`
	// LeftOut counts components that broke a rule or were not measured and were
	// left out of an Observation.
	LeftOut int `json:"leftOut"`
	// Retracted counts stored Observations that became entered-in-error because the
	// vendor no longer holds them. They are not among Read and Updated.
	Retracted int `json:"retracted"`
}

func (c *Counts) add(other Counts) {
	c.Read += other.Read
	c.Created += other.Created
	c.Updated += other.Updated
	c.Unchanged += other.Unchanged
	c.Quarantined += other.Quarantined
	c.Dropped += other.Dropped
	c.LeftOut += other.LeftOut
	c.Retracted += other.Retracted
}

// Summary holds the figures of a delivery. Read counts samples, rejects and the
// samples that the decoder dropped.
type Summary struct {
	Counts
	ByMetric map[string]Counts `json:"byMetric"`
	Seconds  float64           `json:"seconds"`
	// Repeated is set if the part was delivered before. Nothing was written then, and
	// the counts are those of the first delivery.
	Repeated bool `json:"repeated,omitempty"`
	// Erased counts the resources that Erase has deleted.
	Erased int `json:"erased,omitempty"`
}

// Add adds the figures of another delivery.
func (s *Summary) Add(other Summary) {
	s.Counts.add(other.Counts)
	s.Seconds += other.Seconds
	s.Erased += other.Erased
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

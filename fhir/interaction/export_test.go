package interaction

// Together is the default number of entries of a batch that wait for the store.
const Together = batchTogether

// WithoutLocks switches off the locks of s, on which only the number of attempts
// depends.
func (s *Service) WithoutLocks() { s.locks.off = true }

// SerialBatches lets s perform the entries of a batch one after the other.
func (s *Service) SerialBatches() { s.Limits.BatchTogether = 1 }

// BlindBatches lets s take the entries of a batch for independent, whatever they are.
func (s *Service) BlindBatches() { s.batches.blind = true }

// OnBatchRun sets the functions that are called when a batch starts a run of entries, and
// before it waits for them or performs one that is alone.
func (s *Service) OnBatchRun(starts, waits func()) { s.batches.starts, s.batches.waits = starts, waits }

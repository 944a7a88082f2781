package interaction

// WithoutLocks switches off the locks of s, on which only the number of attempts
// depends.
func (s *Service) WithoutLocks() { s.locks.off = true }

package search

// MatchesWords reports whether a string parameter matches the beginning of any word of
// a text, so that an index needs each of them.
func (p *Param) MatchesWords() bool { return p.matchesWords() }

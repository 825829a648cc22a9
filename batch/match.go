package batch

// PrefixMatch is what the prefix cache had for a sequence when it was first
// admitted, and why it had no more.
type PrefixMatch struct {
	Tokens int // leading tokens found
	At     int // first token that was not found; with StopDiverged the first that differs
	Stop   MatchStop
}

// MatchStop says why a prefix match went no further.
type MatchStop uint8

const (
	StopNone      MatchStop = iota // not looked up yet
	StopBlockEdge                  // all whole blocks matched; the rest of the prompt fills none, or is the last token
	StopDiverged                   // a cached prompt is the same up to token At
	StopEvicted                    // the next block was cached once and has been evicted
	StopWindow                     // later blocks are cached, but some that the sliding window there reaches are not
	StopSalt                       // the next block is cached, for another tenant, model, adapter or dtype
	StopUnseen                     // nothing like the next block is known
	StopDisabled                   // prefix caching is off
	NumMatchStops                  // how many there are
)

func (s MatchStop) String() string {
	return [...]string{"none", "block edge", "diverged", "evicted", "window", "salt", "unseen", "disabled"}[s]
}

// Public is the reason as its own client may hear it: that somebody else has
// sent the same text is not for it to know.
func (s MatchStop) Public() MatchStop {
	if s == StopSalt {
		return StopUnseen
	}
	return s
}

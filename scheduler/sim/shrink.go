package sim

// Shrink takes operations out of a failing trace for as long as it still breaks
// the same invariant (delta debugging, Zeller 1999): ever smaller chunks, until
// no single operation can go. It returns a new trace.
func Shrink(t *Trace, opt Options) *Trace {
	_, v := Run(t, opt)
	if v == nil {
		return t
	}
	small := *t
	small.Violation = v.Invariant
	small.Ops = append([]Op(nil), t.Ops[:min(v.Op+1, len(t.Ops))]...) // what comes after does not matter
	fails := func(ops []Op) bool {
		try := small
		try.Ops = ops
		_, got := Run(&try, opt)
		return got != nil && got.Invariant == v.Invariant
	}
	if !fails(small.Ops) {
		small.Ops = t.Ops
	}
	for chunk := max(1, len(small.Ops)/2); ; chunk /= 2 {
		for removed := true; removed; {
			removed = false
			for at := 0; at < len(small.Ops); {
				rest := append(append([]Op(nil), small.Ops[:at]...), small.Ops[min(at+chunk, len(small.Ops)):]...)
				if fails(rest) {
					small.Ops, removed = rest, true
				} else {
					at += chunk
				}
			}
		}
		if chunk <= 1 {
			return &small
		}
	}
}

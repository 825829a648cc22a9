package spec

// History is how drafts fared, by confidence class and position: decayed counts
// of how often draft j was accepted given that those before it were.
type History [Classes][MaxDraft]tally

type tally struct{ hits, trials float32 }

// A sequence forgets over about 16 drafts, as its text may turn from prose to a
// quotation at any word; what all sequences share moves over about 100.
const (
	ownDecay    = 1 - 1./16
	sharedDecay = 1 - 1./100
)

// observe adds a verified draft: accepted positions, and whether the one after
// them was rejected (false when all were accepted or the sequence ended).
func (h *History) observe(class, accepted int, rejected bool, decay float32) {
	for j := range accepted {
		h[class][j].add(1, decay)
	}
	if rejected {
		h[class][accepted].add(0, decay)
	}
}

// fade forgets a part of what is known of one class.
func (h *History) fade(class int, decay float32) {
	for j := range h[class] {
		h[class][j].hits *= decay
		h[class][j].trials *= decay
	}
}

func (t *tally) add(hit, decay float32) {
	t.hits = float32(t.hits*decay) + hit
	t.trials = float32(t.trials*decay) + 1
}

// mean is the posterior mean with a Beta prior of that mean and weight.
func (t *tally) mean(prior, weight float64) float64 {
	return (float64(t.hits) + prior*weight) / (float64(t.trials) + weight)
}

const (
	sharedWeight = 4 // of the position before, as prior of the shared estimate
	ownWeight    = 4 // of the shared estimate, as prior of the sequence's
)

// survival fills p[m] with the probability that drafts 0 … m are all accepted.
// Each position starts from what is known of the one before it, and a sequence
// from what is known of all.
func survival(p []float64, first float64, own, shared *History, class int) {
	all, mine, product := first, first, 1.
	for j := range p {
		all = shared[class][j].mean(all, sharedWeight)
		// Half of what sets this sequence apart at one position is expected at the next.
		prior := min(max(all+(mine-all)/2, 0), 1)
		if j == 0 {
			prior = all
		}
		mine = own[class][j].mean(prior, ownWeight)
		product *= mine
		p[j] = product
	}
}

package sampler

import "math"

// truncate applies typical, top-p, min-p and XTC, in that order, each to the
// renormalised survivors of the one before. Dense weights turn sparse at the
// first that acts (XTC alone leaves them dense).
func (s *Sampler) truncate(sc *scratch, d weights, output int) weights {
	p := &s.params
	if on(p.TypicalP) {
		d = sc.typical(d, p.TypicalP)
	}
	if on(p.TopP) {
		d = sc.topP(d, p.TopP)
	}
	if p.MinP > 0 {
		d = sc.minP(d, p.MinP)
	}
	if p.XTC.Probability > 0 && s.Uniform(output, LaneXTC) < float64(p.XTC.Probability) {
		d = sc.xtc(d, p.XTC.Threshold)
	}
	return d
}

// on tells whether a mass in (0, 1] cuts anything off.
func on(mass float32) bool { return mass > 0 && mass < 1 }

// topP keeps the nucleus: the smallest set of the most likely tokens whose mass
// is at least p (Holtzman et al. 2020).
//
// From dense weights it collects those above a threshold that falls by octaves
// until their mass suffices: the nucleus is among them, and they are few
// unless the distribution is flat.
func (sc *scratch) topP(d weights, p float32) weights {
	need := float64(p) * d.total
	if d.ids == nil {
		all := d
		for t := float32(1. / 16); ; t /= 16 {
			if d = sc.atLeast(all, t); d.total >= need || t == 0 {
				break
			}
		}
	}
	return d.filter(sc.prefix(d.w, d.w, d.ids, need), d.w)
}

// minP keeps the tokens at least p times as likely as the likeliest (Nguyen et al. 2024).
func (sc *scratch) minP(d weights, p float32) weights {
	if d.ids == nil {
		return sc.atLeast(d, p) // the likeliest weighs 1
	}
	top := float32(0)
	for _, w := range d.w {
		top = max(top, w)
	}
	return d.filter(cut{float32(p * top), math.MaxInt32}, d.w)
}

// typical keeps the tokens whose information content −ln p is nearest to its
// mean, the entropy, until their mass is at least p (Meister et al. 2022).
func (sc *scratch) typical(d weights, p float32) weights {
	if d.ids == nil {
		d = sc.atLeast(d, 0)
	}
	logTotal := math.Log(d.total)
	entropy := 0.0
	keys := grow(sc.keys, len(d.w))
	sc.keys = keys
	for i, w := range d.w {
		info := logTotal - math.Log(float64(w))
		entropy += float64(float64(w) / d.total * info)
		keys[i] = float32(info)
	}
	for i, info := range keys {
		keys[i] = -float32(math.Abs(float64(info) - entropy))
	}
	return d.filter(sc.prefix(keys, d.w, d.ids, float64(p)*d.total), keys)
}

// xtc removes all but the least likely of the tokens whose probability is at
// least threshold, when there are two or more ("exclude top choices").
func (sc *scratch) xtc(d weights, threshold float32) weights {
	least := max(float32(float64(threshold)*d.total), smallest.key)
	if d.ids == nil {
		sc.xtcDense(d.w, sc.collect(d.w, least))
		d.total = 0
		for _, sum := range sc.blocks {
			d.total += sum
		}
		return d
	}
	keep := -1
	for i, w := range d.w {
		if w >= least && (keep < 0 || w <= d.w[keep]) {
			keep = i
		}
	}
	n, total := 0, 0.0
	for i, w := range d.w {
		if w < least || i == keep {
			d.ids[n], d.w[n] = d.ids[i], w
			total += float64(w)
			n++
		}
	}
	return weights{w: d.w[:n], ids: d.ids[:n], total: total}
}

// xtcDense zeroes the weights of the top ids but the last in the order (lowest
// weight, then highest id), and adds up their blocks again.
func (sc *scratch) xtcDense(w []float32, top []int32) {
	if len(top) < 2 {
		return
	}
	keep := top[0]
	for _, id := range top {
		if w[id] <= w[keep] {
			keep = id
		}
	}
	for _, id := range top {
		if id != keep {
			w[id] = 0
		}
	}
	done := -1
	for _, id := range top {
		if i := int(id) / blockSize; i != done {
			sum := 0.0
			for _, v := range block(w, i*blockSize) {
				sum += float64(v)
			}
			sc.blocks[i], done = sum, i
		}
	}
}

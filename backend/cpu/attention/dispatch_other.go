//go:build !amd64 || purego

package attention

func (k *Kernel) maxRows() int { return maxRows }

func (k *Kernel) scores(s []float32, q queries, pool []byte, offsets []int64, rows, _ int) {
	k.scoresGeneric(s, q, pool, offsets, rows)
}

func (k *Kernel) softmax(states []float32, s *page, from, n, a, b int) {
	k.softmaxGeneric(states, s, from, n, a, b)
}

func (k *Kernel) values(states []float32, s *page, kv *keys, seen, t tiles, from, to, a, b int) {
	k.valuesGeneric(states, s, kv, seen, t, from, to, a, b)
}

func (k *Kernel) finish(out, states []float32, step int, w []float32, sink float32) {
	finishGeneric(out, states, step, w, sink)
}

func (k *Kernel) turn(dst []float32, step int, rows [][]float32, scale float32) {
	turnGeneric(dst, step, rows, scale)
}

func peak(x *[group]float32) float32 { return peakGeneric(x) }

func round(codes *[group]int8, x *[group]float32, inverse float32, low, high int8) int32 {
	return roundGeneric(codes, x, inverse, low, high)
}

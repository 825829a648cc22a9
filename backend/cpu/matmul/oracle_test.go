package matmul

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"

	"sestina/internal/f32"
	"sestina/tensor"
)

// The oracle reads weights from the file's bytes, not from packed ones, and follows the numerics contract one scalar at a
// time. It shares no code with the kernels or their pure Go twins.

// fileBlock is 32 columns of one row of a file: value = d·q [+ m]; with halves d·sc[k/16]·q [- m·mn[k/16]].
type fileBlock struct {
	q      [32]int32 // offset subtracted
	d, m   float32
	sc, mn [2]int32
	min    bool
	halves bool // a scale for each half; Q2_K: and a minimum
}

func f16At(b []byte) float32 { return tensor.Float16(le.Uint16(b)).Float32() }

// fileBlocks reads a row of an integer format, element by element as its documentation says.
func fileBlocks(dt tensor.DType, row []byte) []fileBlock {
	var blocks []fileBlock
	for ; len(row) > 0; row = row[dt.BlockBytes():] {
		n := dt.BlockSize() / 32
		for b := range n {
			blocks = append(blocks, readFileBlock(dt, row, b))
		}
	}
	return blocks
}

func readFileBlock(dt tensor.DType, x []byte, b int) fileBlock {
	fb := fileBlock{d: f16At(x)}
	nibble := func(qs []byte, k int) int32 { return int32(qs[k%16] >> (k / 16 * 4) & 15) }
	for k := range 32 {
		switch dt {
		case tensor.Q8_0:
			fb.q[k] = int32(int8(x[2+k]))
		case tensor.Q4_0:
			fb.q[k] = nibble(x[2:], k) - 8
		case tensor.Q4_1:
			fb.q[k], fb.m, fb.min = nibble(x[4:], k), f16At(x[2:]), true
		case tensor.Q5_0:
			fb.q[k] = nibble(x[6:], k) + int32(le.Uint32(x[2:])>>k&1)*16 - 16
		case tensor.Q5_1:
			fb.q[k], fb.m, fb.min = nibble(x[8:], k)+int32(le.Uint32(x[4:])>>k&1)*16, f16At(x[2:]), true
		case tensor.Q4_K:
			fb.q[k] = int32(x[16+b/2*32+k] >> (b % 2 * 4) & 15)
		case tensor.Q5_K:
			fb.q[k] = int32(x[48+b/2*32+k]>>(b%2*4)&15) + int32(x[16+k]>>b&1)*16
		case tensor.Q6_K:
			i := 32*b + k
			lo, hi := x[i/128*64+i%64]>>(i/64%2*4)&15, x[128+i/128*32+i%32]>>(i/32%4*2)&3
			fb.q[k] = int32(lo) + int32(hi)*16 - 32
			fb.d, fb.halves = f16At(x[208:]), true
			fb.sc = [2]int32{int32(int8(x[192+2*b])), int32(int8(x[193+2*b]))}
		case tensor.Q2_K:
			i := 32*b + k
			fb.q[k] = int32(x[16+i/128*32+i%32] >> (i % 128 / 32 * 2) & 3)
			fb.d, fb.m, fb.min, fb.halves = f16At(x[80:]), f16At(x[82:]), true, true
			fb.sc[k/16], fb.mn[k/16] = int32(x[i/16]%16), int32(x[i/16]/16)
		case tensor.Q3_K:
			i := 32*b + k
			fb.q[k] = int32(x[32+i/128*32+i%32]>>(i%128/32*2)&3) + int32(x[i%32]>>(i/32)&1)*4 - 4
			fb.d, fb.halves = f16At(x[108:]), true
			s := i / 16
			low, high := x[96+s%8]>>(s/8*4)&15, x[104+s%4]>>(s/4*2)&3
			fb.sc[k/16] = int32(low) + int32(high)*16 - 32
		case tensor.IQ4_NL:
			fb.q[k] = []int32{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}[nibble(x[2:], k)]
		case tensor.MXFP4:
			code := nibble(x[1:], k)
			fb.q[k] = []int32{0, 1, 2, 3, 4, 6, 8, 12}[code%8] * (1 - code/8*2)
			fb.d = float32(math.Ldexp(1, int(x[0])-128))
		}
	}
	if dt == tensor.Q4_K || dt == tensor.Q5_K {
		scales, mins := tensor.ScaleMinK4(x[4:16])
		fb.d *= float32(scales[b])
		fb.m, fb.min = -float32(f16At(x[2:])*float32(mins[b])), true
	}
	return fb
}

// oracleInt8 is one weight row times one row of quantised activations.
func oracleInt8(blocks []fileBlock, act []byte) float32 {
	acc := float32(0)
	for i, b := range blocks {
		acc = b.step(acc, act[i*64:])
	}
	return acc
}

func (b *fileBlock) step(acc float32, a []byte) float32 {
	var part [2]int64
	for k, q := range b.q {
		part[k/16] += int64(q) * int64(int8(a[k]))
	}
	sum := part[0] + part[1]
	if b.halves {
		sum = int64(b.sc[0])*part[0] + int64(b.sc[1])*part[1]
	}
	da, ds := math.Float32frombits(le.Uint32(a[32:])), math.Float32frombits(le.Uint32(a[36:]))
	acc = f32.FMA(float32(sum), float32(b.d*da), acc)
	switch {
	case b.min && b.halves:
		low := int64(0)
		for k := range b.q {
			low -= int64(b.mn[k/16]) * int64(int8(a[k]))
		}
		acc = f32.FMA(float32(low), float32(b.m*da), acc)
	case b.min:
		acc = f32.FMA(b.m, ds, acc)
	}
	return acc
}

// oracleF32 is one weight row, as tensor.Decode reads it, times one row of float32 activations.
func oracleF32(weights, x []float32) float32 {
	acc := float32(0)
	for k, w := range weights {
		acc = f32.FMA(w, x[k], acc)
	}
	return acc
}

// oracleRound is the contract's rounding to bf16.
func oracleRound(x []float32) (out []byte) {
	for _, v := range x {
		out = le.AppendUint16(out, uint16(tensor.ToBFloat16(v)))
	}
	return append(out, make([]byte, len(x)%2*2)...)
}

// oracleBF16 is one row of BF16 weights, as the file has them, times one row of bf16 activations.
func oracleBF16(weights, act []byte) float32 {
	at := func(row []byte, k int) float32 {
		if 2*k >= len(row) {
			return 0
		}
		return tensor.BFloat16(le.Uint16(row[2*k:])).Float32()
	}
	acc := float32(0)
	for k := 0; 2*k < len(weights); k += 2 {
		acc = oracleFMA(at(weights, k+1), at(act, k+1), acc)
		acc = oracleFMA(at(weights, k), at(act, k), acc)
	}
	return acc
}

// oracleBlocks is the same product in the order of TDPBF16PS.
func oracleBlocks(weights, act []byte) float32 {
	const block = 64 // bytes of 32 columns
	at := func(row []byte, k int) float32 { return tensor.BFloat16(le.Uint16(row[2*k:])).Float32() }
	acc := float32(0)
	for ; len(act) > 0; act = act[min(block, len(act)):] {
		var sums [2]float32 // of even columns, of odd ones
		w := append(weights[:min(block, len(weights)):min(block, len(weights))], 0, 0)
		for k := range min(block, len(act)) / 2 {
			sums[k%2] = oracleFMA(at(w, k), at(act, k), sums[k%2])
		}
		acc = oracleFMA(1, acc, oracleFMA(1, sums[0], sums[1]))
		weights = weights[min(block, len(weights)):]
	}
	return acc
}

// oracleFMA takes subnormal operands as zero and flushes results. Which results are too small is decided in exact
// arithmetic: half a unit in the last place below 2^-126, in 24 bits, is 2^-151.
func oracleFMA(x, y, z float32) float32 {
	for _, v := range []*float32{&x, &y, &z} {
		if math.Abs(float64(*v)) < 0x1p-126 {
			*v *= 0
		}
	}
	r := f32.FMA(x, y, z)
	if r != r || math.Abs(float64(r)) > 0x1p-126 {
		return r
	}
	big1 := func(v float32) *big.Float { return new(big.Float).SetPrec(600).SetFloat64(float64(v)) }
	exact := big1(x)
	exact.Mul(exact, big1(y)).Add(exact, big1(z))
	if exact.Abs(exact).Cmp(big.NewFloat(0x1p-126-0x1p-151)) < 0 {
		return r * 0
	}
	return float32(math.Copysign(0x1p-126, float64(r)))
}

// oracleQuantize is the contract's quantisation of 32 values.
func oracleQuantize(x []float32) []byte {
	out := make([]byte, 64)
	amax := 0.0
	for _, v := range x {
		amax = max(amax, math.Abs(float64(v))) // max returns a NaN if there is one
	}
	d, id := float32(amax)/127, float32(0)
	if amax < 1e-30 {
		d = 0
	} else {
		id = 1 / d
	}
	sums := [2]int32{}
	for i, v := range x {
		r := math.RoundToEven(float64(float32(v * id)))
		if math.IsNaN(r) {
			r = -127
		}
		out[i] = byte(int8(r))
		sums[i/16] += int32(r)
	}
	le.PutUint32(out[32:], math.Float32bits(d))
	le.PutUint32(out[36:], math.Float32bits(d*float32(sums[0]+sums[1])))
	le.PutUint32(out[40:], uint32(-(sums[0] + sums[1])))
	le.PutUint32(out[44:], uint32(-sums[0]))
	le.PutUint32(out[48:], uint32(-sums[1]))
	for at, of := range map[int][]byte{52: out[:32], 56: out[:16], 60: out[16:32]} {
		for k, q := range of {
			pair := out[at+k%4/2*2:]
			le.PutUint16(pair, le.Uint16(pair)-uint16(int16(int8(q))))
		}
	}
	return out
}

// fill says which values a random matrix has.
type fill int

const (
	ordinary fill = iota
	ones          // all quants at their largest
	zeros         // all quants at their smallest
	strange       // scales are infinities, NaNs and subnormals
	numFills
)

// scaleFields are the places of float16 fields in a block of a file.
var scaleFields = map[tensor.DType][]int{
	tensor.Q4_0: {0}, tensor.Q4_1: {0, 2}, tensor.Q5_0: {0}, tensor.Q5_1: {0, 2}, tensor.Q8_0: {0},
	tensor.Q4_K: {0, 2}, tensor.Q5_K: {0, 2}, tensor.Q6_K: {208}, tensor.Q2_K: {80, 82}, tensor.Q3_K: {108}, tensor.IQ4_NL: {0},
}

// rawMatrix makes n rows of k weights in a file's format.
func rawMatrix(rng *rand.Rand, dt tensor.DType, n, k int, f fill) []byte {
	raw := make([]byte, n*k/dt.BlockSize()*dt.BlockBytes())
	if !dt.Quantized() {
		return rawScalars(rng, dt, raw, f)
	}
	for i := range raw {
		raw[i] = [numFills]byte{byte(rng.Uint32()), 0xff, 0, byte(rng.Uint32())}[f]
		if dt == tensor.Q8_0 && f != ordinary && f != strange {
			raw[i] ^= 0x80 // 127 and -128
		}
	}
	if dt == tensor.MXFP4 {
		for at := 0; at < len(raw) && f != strange; at += 17 {
			raw[at] = byte(120 + rng.IntN(8))
		}
	}
	odd := []tensor.Float16{0x7c00, 0xfc00, 0x7e00, 0x0001, 0x8000, 0x7bff}
	for at := 0; at < len(raw); at += dt.BlockBytes() {
		for _, field := range scaleFields[dt] {
			h := tensor.ToFloat16(float32(rng.NormFloat64()) * 0.02)
			if f == strange && rng.IntN(4) == 0 {
				h = odd[rng.IntN(len(odd))]
			}
			le.PutUint16(raw[at+field:], uint16(h))
		}
	}
	return raw
}

func rawScalars(rng *rand.Rand, dt tensor.DType, raw []byte, f fill) []byte {
	values := make([]float32, len(raw)/dt.BlockBytes())
	for i := range values {
		values[i] = float32(rng.NormFloat64())
		if f == strange && rng.IntN(16) == 0 {
			values[i] = []float32{float32(math.Inf(1)), float32(math.NaN()), 1e-40, 0x1p-24}[rng.IntN(4)]
		}
	}
	if err := tensor.Encode(dt, raw, values); err != nil {
		panic(err)
	}
	return raw
}

// randomRows makes m rows of k activations; every fourth block is extreme: all at ±max, or zero.
func randomRows(rng *rand.Rand, m, k int) []float32 {
	x := make([]float32, m*k)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
		switch kind := i / 32 % 8; {
		case kind == 3:
			x[i] = 3
		case kind == 5:
			x[i] = -0.7
		case kind == 7:
			x[i] = 0
		}
	}
	return x
}

// same compares bits; any NaN equals any other.
func same(a, b float32) bool {
	return math.Float32bits(a) == math.Float32bits(b) || a != a && b != b
}

func TestOracleReadsWhatDecodeReads(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, dt := range DTypes() {
		if !dt.Quantized() {
			continue
		}
		raw := rawMatrix(rng, dt, 1, 512, ordinary)
		want := make([]float32, 512)
		if err := tensor.Decode(dt, want, raw); err != nil {
			t.Fatal(err)
		}
		for i, b := range fileBlocks(dt, raw) {
			for k, q := range b.q {
				d, m := b.d, b.m
				if b.halves {
					d *= float32(b.sc[k/16])
					m = -float32(m * float32(b.mn[k/16]))
				}
				got := float32(d*float32(q)) + m
				if got != want[i*32+k] {
					t.Fatalf("%v element %d: %v, Decode says %v", dt, i*32+k, got, want[i*32+k])
				}
			}
		}
	}
}

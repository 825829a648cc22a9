package matmul

import (
	"bytes"
	"math"
	"math/rand/v2"
	"testing"
	"unsafe"

	"sestina/tensor"
)

// awkward are bf16 whose products and sums fall around the smallest normal value, the largest one, and out of both.
var awkward = []uint16{0, 0x8000, 1, 0x8001, 0x007f, 0x0080, 0x8080, 0x0081, 0x1f80, 0x1fff, 0x9f81, 0x2000, 0xa000, 0x2001,
	0x3f80, 0xbf80, 0x3fff, 0x5f00, 0x7f00, 0x7f7f, 0xff7f, 0x7f80, 0xff80, 0x7fc0, 0x7f81}

// pairMatrix is one panel of given pairs: every row the same.
func pairMatrix(t *testing.T, pairs []uint32) *Packed {
	var row []byte
	for _, p := range pairs {
		row = le.AppendUint32(row, p)
	}
	return pack(t, tensor.BF16, PanelRows, 2*len(pairs), bytes.Repeat(row, PanelRows))
}

// inPairs are the sets of kernels that add BF16 in the order of VDPBF16PS.
func inPairs() (sets []*Kernels) {
	for _, isa := range Supported() {
		if k, _ := For(isa); !k.BF16InBlocks() {
			sets = append(sets, k)
		}
	}
	return sets
}

// TestBF16Scalar compares the scalar form of the arithmetic with exact arithmetic and with every kernel: all pairs of
// awkward factors, after sums that are awkward themselves.
func TestBF16Scalar(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	pick := func() uint32 { return uint32(awkward[rng.IntN(len(awkward))]) }
	flushed, kept := 0, 0
	for range 4000 {
		weights, x, want := make([]uint32, 5), []byte(nil), float32(0)
		for i := range weights {
			weights[i] = pick()<<16 | pick()
			v := pick()<<16 | pick()
			if rng.IntN(2) == 0 { // about 2^-126, with the weights that are about 2^-64
				weights[i], v = 0x1f801f80^rng.Uint32()&0x80ff80ff, 0x20002000^rng.Uint32()&0x81ff81ff
			}
			x = le.AppendUint32(x, v)
			low := func(b uint32) float32 { return math.Float32frombits(b << 16) }
			for shift := 16; shift >= 0; shift -= 16 {
				exact := oracleFMA(low(weights[i]>>shift), low(v>>shift), want)
				got := fmaFlush(low(weights[i]>>shift), low(v>>shift), want)
				if !same(got, exact) {
					t.Fatalf("%#x · %#x + %v = %v, exactly %v", weights[i]>>shift, v>>shift, want, got, exact)
				}
				if want = exact; want == 0 {
					flushed++
				} else if math.Abs(float64(want)) < 0x1p-120 {
					kept++
				}
			}
		}
		w := pairMatrix(t, weights)
		for _, k := range inPairs() {
			var out [PanelRows]float32
			k.MulBF16(out[:], 0, w, 0, 1, x, 1)
			for _, got := range out {
				if !same(got, want) {
					t.Fatalf("%v: %#x · %x = %v, want %v", k.ISA, weights, x, got, want)
				}
			}
		}
	}
	if flushed < 100 || kept < 100 {
		t.Errorf("%d sums were zero, %d near it: too few to show anything", flushed, kept)
	}
}

// TestFlushBoundary: results just below 2^-126 that 24 bits without a bound on the exponent round up to it are kept, and
// the next lower ones are not.
func TestFlushBoundary(t *testing.T) {
	bf16 := func(f float32) uint32 { return math.Float32bits(f) >> 16 }
	for _, c := range []struct {
		small float64
		want  float32
	}{
		{0x1p-149, 0}, {0x1p-150, 0}, {0x1.02p-151, 0}, {0x1p-151, 0x1p-126}, {0x1p-160, 0x1p-126}, {0, 0x1p-126},
	} {
		for _, sign := range []float32{1, -1} {
			// 2^-60·2^-66 in the odd column, then -2^-60·(small·2^60) in the even one
			small := float32(c.small * 0x1p60)
			w := pairMatrix(t, []uint32{bf16(0x1p-60)<<16 | bf16(0x1p-60)})
			x := le.AppendUint32(nil, bf16(sign*0x1p-66)<<16|bf16(-sign*small))
			for _, k := range inPairs() {
				var out [PanelRows]float32
				k.MulBF16(out[:], 0, w, 0, 1, x, 1)
				if out[3] != sign*c.want {
					t.Errorf("%v: %v·2^-126 less %v is %v, want %v", k.ISA, sign, c.small, out[3], c.want)
				}
			}
		}
	}
}

// TestWrongPairOrderIsSeen: adding the even column first changes bits, so the comparisons above would notice it.
func TestWrongPairOrderIsSeen(t *testing.T) {
	rng, differ := rand.New(rand.NewPCG(6, 6)), 0
	x := make([]float32, 400)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	a, b := oracleRound(x[:200]), oracleRound(x[200:])
	swapped := func(row []byte) (out []byte) {
		for at := 0; at < len(row); at += 4 {
			out = append(out, row[at+2], row[at+3], row[at], row[at+1])
		}
		return out
	}
	for n := 4; n <= len(a); n += 4 {
		if oracleBF16(a[:n], b[:n]) != oracleBF16(swapped(a[:n]), swapped(b[:n])) {
			differ++
		}
	}
	if differ < 10 {
		t.Fatalf("only %d of 100 sums depend on the order within a pair", differ)
	}
}

// TestSelfTestSeesWrongKernels: a kernel of the wrong order, and one that keeps subnormal values, are refused.
func TestSelfTestSeesWrongKernels(t *testing.T) {
	for _, isa := range Supported()[1:] {
		k, _ := For(isa)
		if !dotsAgree(k.bf16) {
			t.Errorf("%v: its own kernels are refused", isa)
		}
	}
	loop := func(dot func(w, x uint32, acc float32) float32) []tile {
		return []tile{{1, 1, func(out *float32, _ int, w *byte, wLen, _, steps int, x *byte, xLen int) {
			weights, act, sum := unsafe.Slice(w, wLen), unsafe.Slice(x, xLen), unsafe.Slice(out, PanelRows)
			clear(sum)
			for i := range steps {
				for lane := range sum {
					sum[lane] = dot(le.Uint32(weights[i*lineBytes+4*lane:]), le.Uint32(act[4*i:]), sum[lane])
				}
			}
		}}}
	}
	float := math.Float32frombits
	for name, c := range map[string]struct {
		dot  func(w, x uint32, acc float32) float32
		want bool
	}{
		"right": {dotPair, true},
		"even first": {func(w, x uint32, acc float32) float32 {
			acc = fmaFlush(float(w<<16), float(x<<16), acc)
			return fmaFlush(float(w&0xffff0000), float(x&0xffff0000), acc)
		}, false},
		"subnormals kept": {func(w, x uint32, acc float32) float32 {
			acc = float32(float64(float(w&0xffff0000))*float64(float(x&0xffff0000)) + float64(acc))
			return float32(float64(float(w<<16))*float64(float(x<<16)) + float64(acc))
		}, false},
		"pair added before the sum": {func(w, x uint32, acc float32) float32 {
			pair := fmaFlush(float(w&0xffff0000), float(x&0xffff0000), 0)
			return acc + fmaFlush(float(w<<16), float(x<<16), pair)
		}, false},
	} {
		if got := dotsAgree(loop(c.dot)); got != c.want {
			t.Errorf("%s: agrees %v, want %v", name, got, c.want)
		}
	}
}

// TestRoundRow: every length, ties, overflow, NaNs of any payload.
func TestRoundRow(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	special := []uint32{0, 0x80000000, 1, 0x007fffff, 0x3f808000, 0x3f818000, 0x3f808001, 0x3f807fff, 0x7f7fffff, 0xff7fffff,
		0x7f800000, 0xff800000, 0x7f800001, 0x7fffffff, 0xffffffff, 0xffc00000}
	for n := range 70 {
		x := make([]float32, n)
		for i := range x {
			if x[i] = math.Float32frombits(rng.Uint32()); rng.IntN(2) == 0 {
				x[i] = math.Float32frombits(special[rng.IntN(len(special))])
			}
		}
		want := oracleRound(x)
		for _, isa := range Supported() {
			k, _ := For(isa)
			buf := bytes.Repeat([]byte{0xa5}, len(want)+32)
			k.RoundRow(buf[:len(want)], x)
			if !bytes.Equal(buf[:len(want)], want) {
				t.Fatalf("%v: %x rounds to %x, want %x", isa, x, buf[:len(want)], want)
			}
			if !bytes.Equal(buf[len(want):], bytes.Repeat([]byte{0xa5}, 32)) {
				t.Fatalf("%v: wrote past the end", isa)
			}
		}
	}
}

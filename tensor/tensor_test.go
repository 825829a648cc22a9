package tensor

import (
	"encoding/json"
	"math"
	"os"
	"testing"
)

// golden is a safetensors file, read the short way: the reader proper is tested in package checkpoint.
type golden map[string]struct {
	DType   string
	Shape   Shape
	Offsets [2]int `json:"data_offsets"`
	data    []byte
}

func readGolden(t *testing.T, path string) golden {
	t.Helper()
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n := le.Uint64(file)
	g := golden{}
	if err := json.Unmarshal(file[8:8+n], &g); err != nil {
		t.Fatal(err)
	}
	for name, v := range g {
		v.data = file[8+n:][v.Offsets[0]:v.Offsets[1]]
		g[name] = v
	}
	return g
}

// blocks.safetensors holds random blocks of each format and what gguf-py 0.19's reference dequantiser makes of them.
func TestDecodeMatchesReference(t *testing.T) {
	g := readGolden(t, "testdata/blocks.safetensors")
	tested, unsupported := 0, 0
	for d := F32; d < numDTypes; d++ {
		raw, ok := g[d.String()+".raw"]
		if !ok {
			continue
		}
		want := g[d.String()+".f32"]
		if raw.Shape[1]/d.BlockBytes()*d.BlockSize() != want.Shape[1] {
			t.Errorf("%v: %d bytes hold %d elements in the golden", d, raw.Shape[1], want.Shape[1])
		}
		got := make([]float32, want.Shape[0]*want.Shape[1])
		err := Decode(d, got, raw.data)
		if !d.CanDecode() {
			unsupported++
			if err == nil {
				t.Errorf("%v: no error from a format without decoder", d)
			}
			continue
		}
		if err != nil {
			t.Errorf("%v: %v", d, err)
			continue
		}
		tested++
		for i, v := range got {
			if w := le.Uint32(want.data[4*i:]); math.Float32bits(v) != w {
				t.Errorf("%v element %d: %v (%#x), want %v (%#x)", d, i, v, math.Float32bits(v), math.Float32frombits(w), w)
				break
			}
		}
	}
	t.Logf("%d formats bit-equal to the reference, %d known by name only", tested, unsupported)
	if tested != 17 || tested+unsupported != 24 {
		t.Errorf("goldens met %d+%d formats, want 17+7", tested, unsupported)
	}
}

// encode.safetensors holds rows of many magnitudes and what gguf-py 0.19's quantisers make of them.
func TestEncodeMatchesReference(t *testing.T) {
	g := readGolden(t, "testdata/encode.safetensors")
	x := make([]float32, g["x"].Shape[0]*g["x"].Shape[1])
	if err := Decode(F32, x, g["x"].data); err != nil {
		t.Fatal(err)
	}
	for _, d := range []DType{F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0} {
		want := g[d.String()].data
		got := make([]byte, len(want))
		if err := Encode(d, got, x); err != nil {
			t.Fatal(err)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("%v: byte %d of block %d is %#x, want %#x", d, i%d.BlockBytes(), i/d.BlockBytes(), got[i], want[i])
				break
			}
		}
	}
}

// Hostile weights must give some bytes, the same everywhere, and never panic.
func TestEncodeExtremeValues(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, v := range []float32{nan, inf, -inf, math.MaxFloat32, -math.MaxFloat32, 1e-42, -1e-42, 0} {
		src := make([]float32, 64)
		for i := range src {
			src[i] = float32(i%5) - 2
		}
		src[7], src[40] = v, -v
		for d := F32; d < numDTypes; d++ {
			if !d.CanEncode() {
				continue
			}
			n, err := d.Bytes(Shape{64})
			if err != nil {
				t.Fatal(err)
			}
			dst := make([]byte, n)
			if err := Encode(d, dst, src); err != nil {
				t.Errorf("%v: %v", d, err)
			}
			if err := Decode(d, src, dst); err != nil {
				t.Errorf("%v: %v", d, err)
			}
		}
	}
}

func TestBytes(t *testing.T) {
	cases := []struct {
		d     DType
		shape Shape
		want  uint64
		ok    bool
	}{
		{F32, Shape{}, 4, true},
		{F32, Shape{3, 5}, 60, true},
		{Q4_0, Shape{3, 64}, 108, true},
		{Q4_0, Shape{64, 3}, 0, false},
		{Q6_K, Shape{2, 2, 512}, 1680, true},
		{Q4_0, Shape{}, 0, false},
		{F32, Shape{1 << 62}, 0, false},
		{I8, Shape{1 << 40, 1 << 40}, 0, false},
		{I8, Shape{-4}, 0, false},
		{Invalid, Shape{4}, 0, false},
		{numDTypes, Shape{4}, 0, false},
	}
	for _, c := range cases {
		got, err := c.d.Bytes(c.shape)
		if got != c.want || (err == nil) != c.ok {
			t.Errorf("%v.Bytes(%v) = %d, %v; want %d, ok %v", c.d, c.shape, got, err, c.want, c.ok)
		}
	}
}

func TestNames(t *testing.T) {
	for d := F32; d < numDTypes; d++ {
		if d.BlockSize() == 0 || d.BlockBytes() == 0 {
			t.Errorf("%v has no size", d)
		}
		if got, err := ParseDType(d.String()); got != d || err != nil {
			t.Errorf("ParseDType(%q) = %v, %v", d.String(), got, err)
		}
	}
	if d, err := ParseDType("q4_k"); d != Q4_K || err != nil {
		t.Errorf("names are not read in any case: %v, %v", d, err)
	}
	for _, bad := range []string{"", "invalid", "Q9_9"} {
		if d, err := ParseDType(bad); err == nil {
			t.Errorf("ParseDType(%q) = %v", bad, d)
		}
	}
}

func TestDecodeChecksLengths(t *testing.T) {
	for _, c := range []struct{ elements, bytes int }{{32, 17}, {32, 36}, {64, 18}, {0, 18}, {31, 18}} {
		if err := Decode(Q4_0, make([]float32, c.elements), make([]byte, c.bytes)); err == nil {
			t.Errorf("Q4_0: %d bytes accepted for %d elements", c.bytes, c.elements)
		}
		if err := Encode(Q4_0, make([]byte, c.bytes), make([]float32, c.elements)); err == nil {
			t.Errorf("Q4_0: %d elements accepted for %d bytes", c.elements, c.bytes)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, d := range []DType{F16, BF16, Q4_0, Q8_0, Q4_K, Q6_K} {
		const n = 1 << 14
		size, _ := d.Bytes(Shape{n})
		src, dst := make([]byte, size), make([]float32, n)
		b.Run(d.String(), func(b *testing.B) {
			b.SetBytes(4 * n)
			for b.Loop() {
				_ = Decode(d, dst, src)
			}
		})
	}
}

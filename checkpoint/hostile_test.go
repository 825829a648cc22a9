package checkpoint

import (
	"bytes"
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"

	"sestina/tensor"
)

// raw builds GGUF bytes by hand, right or wrong.
type raw []byte

func header(version uint32, tensors, pairs uint64) raw {
	return raw("GGUF").u32(version).u64(tensors).u64(pairs)
}

func (b raw) u8(v uint8) raw           { return append(b, v) }
func (b raw) u32(v uint32) raw         { return le.AppendUint32(b, v) }
func (b raw) u64(v uint64) raw         { return le.AppendUint64(b, v) }
func (b raw) str(s string) raw         { return append(b.u64(uint64(len(s))), s...) }
func (b raw) zeros(n int) raw          { return append(b, make([]byte, n)...) }
func (b raw) key(k string, t int) raw  { return b.str(k).u32(uint32(t)) }
func (b raw) list(t int, n uint64) raw { return b.u32(uint32(t)).u64(n) }
func (b raw) align(n int) raw          { return b.zeros((n - len(b)%n) % n) }
func (b raw) data(n int) raw           { return b.align(32).zeros(n) }
func (b raw) alignment(a uint32) raw   { return b.key("general.alignment", ggufUint32).u32(a) }
func (b raw) text(k, v string) raw     { return b.key(k, ggufString).str(v) }
func (b raw) tensor(name string, kind uint32, offset uint64, ne ...uint64) raw {
	b = b.str(name).u32(uint32(len(ne)))
	for _, n := range ne {
		b = b.u64(n)
	}
	return b.u32(kind).u64(offset)
}

const (
	f32Kind, q4Kind, i8Kind, i64Kind = 0, 2, 24, 27
	all1                             = math.MaxUint64
)

// hostileGGUF holds the kinds of llama.cpp's test-gguf, the shapes of published CVEs of GGUF loaders, and files that
// must open. want is a part of the error, empty for files that open.
var hostileGGUF = []struct {
	name string
	file raw
	want string
}{
	// The fixed header.
	{"empty file", raw{}, "not a GGUF file"},
	{"magic only", raw("GGUF"), "not a GGUF file"},
	{"bad magic", append(raw("FUGG"), header(3, 0, 0)[4:]...), "not a GGUF file"},
	{"version 0", header(0, 0, 0), "version 0"},
	{"version 1", header(1, 0, 0), "version 1 is not supported"},
	{"version of the future", header(4, 0, 0), "version 4"},
	{"big-endian version 3", header(3<<24, 0, 0), "big-endian GGUF file (version 3)"},
	{"counts cut off", header(3, 0, 0)[:20], "ends early"},
	{"2^64-1 tensors", header(3, all1, 0), "at most 65536"},
	{"2^64-1 pairs", header(3, 0, all1), "at most 65536"},
	{"65,536 tensors in 24 bytes", header(3, 1<<16, 0), "do not fit in the 0 bytes left"},
	{"65,536 pairs in 24 bytes", header(3, 0, 1<<16), "do not fit in the 0 bytes left"},
	{"nothing in it", header(3, 0, 0), ""},
	{"version 2", header(2, 0, 0), ""},

	// Metadata.
	{"key of 2^64-1 bytes", header(3, 0, 1).u64(all1).zeros(40), "at most 65535"},
	{"key longer than the file", header(3, 0, 1).u64(100).zeros(40), "do not fit"},
	{"empty key", header(3, 0, 1).key("", ggufUint8).u8(1).zeros(8), "key is empty"},
	{"unknown type", header(3, 0, 1).key("k", 13).u64(0), "value type 13 is unknown"},
	{"type 2^32-1", header(3, 0, 1).str("k").u32(math.MaxUint32).u64(0), "is unknown"},
	{"unknown element type", header(3, 0, 1).key("k", ggufArray).list(13, 1).u64(0), "element type 13 is unknown"},
	{"array of arrays", header(3, 0, 1).key("k", ggufArray).list(ggufArray, 1).list(ggufArray, 1).u64(0), "arrays of arrays"},
	{"string of 2^64-1 bytes", header(3, 0, 1).key("k", ggufString).u64(all1), "at most 16777216"},
	{"string of 16 MiB in 60 bytes", header(3, 0, 1).key("k", ggufString).u64(16 << 20).zeros(15), "do not fit"},
	{"array of 2^64-1", header(3, 0, 1).key("k", ggufArray).list(ggufUint8, all1), "at most 67108864"},
	{"array of 2^61 u64 (wraps to 0 bytes)", header(3, 0, 1).key("k", ggufArray).list(ggufUint64, 1<<61), "at most"},
	{"array of 64 Mi u8 in 60 bytes", header(3, 0, 1).key("k", ggufArray).list(ggufUint8, 64<<20).zeros(11), "do not fit"},
	{"array of 64 Mi strings", header(3, 0, 1).key("k", ggufArray).list(ggufString, 64<<20), "at most 4194304"},
	{"strings that end early", header(3, 0, 1).key("k", ggufArray).list(ggufString, 2).str("a").u64(5).zeros(4), "do not fit"},
	{"same key twice", header(3, 0, 2).text("k", "a").text("k", "b"), "occurs twice"},
	{"pairs end early", header(3, 0, 2).text("k", "abcdefghijkl"), "ends early"},
	{"alignment 0", header(3, 0, 1).alignment(0).align(32), "power of two"},
	{"alignment 13", header(3, 0, 1).alignment(13).align(32), "power of two"},
	{"alignment 2 GiB", header(3, 0, 1).alignment(1 << 31).align(32), "power of two"},
	{"alignment of another type", header(3, 0, 1).key("general.alignment", ggufInt32).u32(32), "int32"},
	{"alignment that is an array", header(3, 0, 1).key("general.alignment", ggufArray).list(ggufUint8, 4).u32(32), "[]uint8"},
	{"all is well", header(3, 0, 3).text("k", "v").key("n", ggufArray).list(ggufString, 0).key("b", ggufBool).u8(1), ""},

	// Tensors.
	{"tensor table cut off", header(3, 1, 0).str("w").u32(2).u64(1).u64(1).u32(f32Kind).zeros(4), "ends early"},
	{"name of 65 bytes", header(3, 1, 0).tensor(strings.Repeat("x", 65), f32Kind, 0, 8).data(32), "at most 64"},
	{"name of 2^64-1 bytes", header(3, 1, 0).u64(all1).zeros(60), "at most 64"},
	{"empty name", header(3, 1, 0).tensor("", f32Kind, 0, 8).data(32), "no name"},
	{"five dimensions", header(3, 1, 0).tensor("w", f32Kind, 0, 1, 1, 1, 1, 8).data(32), "5 dimensions"},
	{"2^32-1 dimensions", header(3, 1, 0).str("w").u32(math.MaxUint32).zeros(60), "dimensions"},
	{"negative dimension", header(3, 1, 0).tensor("w", f32Kind, 0, all1).data(32), "dimension 0"},
	{"zero dimension", header(3, 1, 0).tensor("w", f32Kind, 0, 8, 0).data(32), "dimension 1 is 0"},
	{"element count wraps", header(3, 1, 0).tensor("w", i8Kind, 0, 1<<32, 1<<32).data(32), "does not fit in 64 bits"},
	{"element count wraps to small", header(3, 1, 0).tensor("w", i8Kind, 0, 1<<62, 4, 3).data(32), "does not fit in 64 bits"},
	{"byte count wraps", header(3, 1, 0).tensor("w", i64Kind, 0, 1<<62).data(32), "does not fit in 64 bits"},
	{"row of half a block", header(3, 1, 0).tensor("w", q4Kind, 0, 16, 2).data(32), "not whole blocks of 32"},
	{"removed type", header(3, 1, 0).tensor("w", 4, 0, 32).data(64), "type 4 is unknown or was removed"},
	{"type 2^32-1", header(3, 1, 0).tensor("w", math.MaxUint32, 0, 32).data(64), "unknown"},
	{"offset between alignments", header(3, 1, 0).tensor("w", f32Kind, 3, 8).data(64), "expected 0"},
	{"offset 2^64-1", header(3, 1, 0).tensor("w", f32Kind, all1, 8).data(64), "offset"},
	{"offset 2^63-32", header(3, 1, 0).tensor("w", f32Kind, 1<<63-32, 8).data(64), "expected 0"},
	{"overlap", header(3, 2, 0).tensor("a", f32Kind, 0, 8).tensor("b", f32Kind, 0, 8).data(64), "expected 32"},
	{"hole", header(3, 2, 0).tensor("a", f32Kind, 0, 8).tensor("b", f32Kind, 64, 8).data(96), "expected 32"},
	{"alignment not kept", header(3, 2, 1).alignment(64).tensor("a", f32Kind, 0, 8).tensor("b", f32Kind, 32, 8).data(128), "expected 64"},
	{"sum of sizes wraps", header(3, 2, 0).tensor("a", i8Kind, 0, 1<<63-64).tensor("b", i8Kind, 1<<63-64, 1<<63-64).data(32), "truncated"},
	{"no data", header(3, 1, 0).tensor("w", f32Kind, 0, 8), "truncated"},
	{"one byte missing", header(3, 1, 0).tensor("w", f32Kind, 0, 8).data(31), "truncated"},
	{"1 TiB tensor in 100 bytes", header(3, 1, 0).tensor("w", f32Kind, 0, 1<<38).data(8), "truncated"},
	{"scalar", header(3, 1, 0).tensor("w", f32Kind, 0).data(4), ""},
	{"two tensors, last not padded", header(3, 2, 0).tensor("a", f32Kind, 0, 3).tensor("b", q4Kind, 32, 32, 2).data(32 + 36), ""},
	{"own alignment", header(3, 2, 1).alignment(1).tensor("a", i8Kind, 0, 3).tensor("b", i8Kind, 3, 2).zeros(5), ""},
}

func TestHostileGGUF(t *testing.T) {
	worst, refused := uint64(0), 0
	for _, c := range hostileGGUF {
		var err error
		grown := allocated(func() { _, _, err = readGGUF(bytes.NewReader(c.file), uint64(len(c.file))) })
		checkRefusal(t, c.name, err, c.want)
		if err != nil {
			refused++
		}
		worst = max(worst, grown)
	}
	t.Logf("T20 GGUF: %d hostile files refused, %d opened, crashes 0; the most memory taken for one was %d KiB", refused, len(hostileGGUF)-refused, worst>>10)
	if worst > 256<<10 {
		t.Errorf("a file of at most 200 bytes cost %d bytes of memory", worst)
	}
}

func TestDuplicateTensorNames(t *testing.T) {
	file := header(3, 2, 0).tensor("w", f32Kind, 0, 8).tensor("w", f32Kind, 32, 8).data(64)
	_, err := Open(folder(t, map[string]string{"m.gguf": string(file)}))
	checkRefusal(t, "same name twice", err, `"w" occurs twice`)
}

// allocated returns the bytes that f allocates on the Go heap.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func checkRefusal(t *testing.T, name string, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: refused: %.300v", name, err)
	case want != "" && err == nil:
		t.Errorf("%s: accepted, want %q", name, want)
	case want != "" && !strings.Contains(err.Error(), want):
		t.Errorf("%s: %.300v, want %q", name, err.Error(), want)
	}
}

// st builds a safetensors file of a header and n bytes of data.
func st(json string, n int) []byte {
	return append(le.AppendUint64(nil, uint64(len(json))), json+strings.Repeat("\x00", n)...)
}

func entry(name, dtype, shape string, begin, end int) string {
	return fmt.Sprintf(`"%s":{"dtype":"%s","shape":%s,"data_offsets":[%d,%d]}`, name, dtype, shape, begin, end)
}

var hostileSafetensors = []struct {
	name string
	file []byte
	want string
}{
	{"empty file", nil, "not a safetensors file"},
	{"seven bytes", make([]byte, 7), "not a safetensors file"},
	{"header of 2^64-1 bytes", le.AppendUint64(nil, math.MaxUint64), "header would take"},
	{"header of 100,000,001 bytes", le.AppendUint64(nil, 100_000_001), "header would take"},
	{"header longer than the file", le.AppendUint64(nil, 20), "header would take"},
	{"empty header", st("", 0), "unexpected EOF"},
	{"no JSON", st("hello", 0), "invalid character"},
	{"array", st("[]", 0), "not with an object"},
	{"cut off", st(`{"a":{"dtype":"F32"`, 0), "EOF"},
	{"two objects", st("{}{}", 0), "followed by"},
	{"nested 1,000,000 deep", st(`{"a":`+strings.Repeat("[", 1_000_000), 0), "nested deeper"},
	{"metadata nested deep", st(`{"__metadata__":`+strings.Repeat(`{"a":`, 50), 0), "nested deeper"},
	{"entry that is no object", st(`{"a":[1,2]}`, 0), "dtype is missing"},
	{"unknown type", st("{"+entry("a", "Q9", "[1]", 0, 4)+"}", 4), `unknown tensor type "Q9"`},
	{"type of GGUF", st("{"+entry("a", "Q4_0", "[32]", 0, 18)+"}", 18), "no type of safetensors"},
	{"type that is a number", st(`{"a":{"dtype":4,"shape":[1],"data_offsets":[0,4]}}`, 4), "4 is no string"},
	{"no shape", st(`{"a":{"dtype":"F32","data_offsets":[0,4]}}`, 4), "shape is missing"},
	{"no offsets", st(`{"a":{"dtype":"F32","shape":[1]}}`, 4), "data_offsets is missing"},
	{"one offset", st(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}}`, 4), "data_offsets [0]"},
	{"negative dimension", st("{"+entry("a", "F32", "[-1]", 0, 4)+"}", 4), "shape [-1]"},
	{"zero dimension", st("{"+entry("a", "F32", "[0]", 0, 0)+"}", 0), "shape [0]"},
	{"dimension with a fraction", st("{"+entry("a", "F32", "[1.5]", 0, 4)+"}", 4), "1.5 is no integer"},
	{"shape that wraps", st("{"+entry("a", "F32", "[4294967296,4294967296]", 0, 0)+"}", 0), "does not fit in 64 bits"},
	{"bytes that wrap", st("{"+entry("a", "F32", "[4611686018427387904]", 0, 0)+"}", 0), "does not fit in 64 bits"},
	{"nine dimensions", st("{"+entry("a", "F32", "[1,1,1,1,1,1,1,1,1]", 0, 4)+"}", 4), "shape"},
	{"span shorter than the tensor", st("{"+entry("a", "F32", "[2]", 0, 4)+"}", 4), "span 4"},
	{"span backwards", st("{"+entry("a", "F32", "[1]", 4, 0)+"}", 4), "data_offsets [4 0]"},
	{"negative offset", st("{"+entry("a", "F32", "[1]", -4, 0)+"}", 4), "data_offsets [-4 0]"},
	{"offset past 2^63", st(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[18446744073709551615,0]}}`, 4), "is no integer"},
	{"past the end", st("{"+entry("a", "F32", "[2]", 0, 8)+"}", 4), "truncated"},
	{"hole at the start", st("{"+entry("a", "F32", "[1]", 4, 8)+"}", 8), "hole"},
	{"hole", st("{"+entry("a", "F32", "[1]", 0, 4)+","+entry("b", "F32", "[1]", 8, 12)+"}", 12), "hole"},
	{"overlap", st("{"+entry("a", "F32", "[1]", 0, 4)+","+entry("b", "F32", "[1]", 2, 6)+"}", 6), "overlap"},
	{"same span twice", st("{"+entry("a", "F32", "[1]", 0, 4)+","+entry("b", "F32", "[1]", 0, 4)+"}", 4), "overlap"},
	{"data left over", st("{"+entry("a", "F32", "[1]", 0, 4)+"}", 5), "the tensors take 4"},
	{"same name twice", st("{"+entry("a", "F32", "[1]", 0, 4)+","+entry("a", "F32", "[1]", 4, 8)+"}", 8), `"a" occurs twice`},
	{"same name, one escaped", st("{"+entry("a", "F32", "[1]", 0, 4)+","+entry(`\u0061`, "F32", "[1]", 4, 8)+"}", 8), `"a" occurs twice`},
	{"same member twice", st(`{"a":{"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}}`, 4), `"dtype" occurs twice`},
	{"empty name", st("{"+entry("", "F32", "[1]", 0, 4)+"}", 4), "name is empty"},
	{"no tensors", st("{}", 0), ""},
	{"scalar and padding", st("{"+entry("a", "BF16", "[]", 0, 2)+"}   ", 2), ""},
	{"out of order", st("{"+entry("b", "U8", "[2,3]", 4, 10)+","+entry("a", "F32", "[1]", 0, 4)+"}", 10), ""},
}

func TestHostileSafetensors(t *testing.T) {
	refused := 0
	for _, c := range hostileSafetensors {
		var err error
		grown := allocated(func() { _, err = readSafetensors(bytes.NewReader(c.file), uint64(len(c.file))) })
		checkRefusal(t, c.name, err, c.want)
		if err != nil {
			refused++
		}
		if limit := uint64(64<<10 + 4*len(c.file)); grown > limit {
			t.Errorf("%s: a file of %d bytes cost %d bytes of memory", c.name, len(c.file), grown)
		}
	}
	t.Logf("T20 safetensors: %d hostile files refused, %d opened, crashes 0", refused, len(hostileSafetensors)-refused)
}

// Headers of 8 MiB made to cost far more memory than file.
func TestLargeHostileHeaders(t *testing.T) {
	const size = 8 << 20
	fill := func(begin, unit string) []byte {
		return []byte(begin + strings.Repeat(unit, (size-len(begin))/len(unit)))
	}
	stHeader := func(begin, unit string) []byte { return st(string(fill(begin, unit)), 0) }
	ggufFile := func(b raw, n int) []byte { return b.zeros(n) }
	cases := []struct {
		name string
		file []byte
		want string
	}{
		{"empty strings", ggufFile(header(3, 0, 1).key("k", ggufArray).list(ggufString, size/8), size), ""},
		{"many tensors", header(3, 1<<16, 0).zeros(size), "no name"},
		{"long shape", stHeader(`{"a":{"shape":[1`, ",1"), "more values"},
		{"lists of lists", stHeader(`{"a":[[]`, ",[]"), "more values"},
		{"objects in metadata", stHeader(`{"__metadata__":[{}`, ",{}"), "more values"},
		{"long string", stHeader(`{"a":"`, "x"), "EOF"},
		{"long number", stHeader(`{"a":1`, "1"), "a number of"},
		{"long name", st(string(fill(`{"`, "x"))+`":1}`, 0), "a name of"},
		{"long dtype", st(string(fill(`{"a":{"shape":[1],"data_offsets":[0,4],"dtype":"`, "x"))+`"}}`, 0), "unknown tensor type"},
		{"spaces", stHeader(`{`, " "), "EOF"},
	}
	for _, c := range cases {
		var err error
		grown := allocated(func() {
			if string(c.file[:4]) == "GGUF" {
				_, _, err = readGGUF(bytes.NewReader(c.file), uint64(len(c.file)))
			} else {
				_, err = readSafetensors(bytes.NewReader(c.file), uint64(len(c.file)))
			}
		})
		checkRefusal(t, c.name, err, c.want)
		t.Logf("%s: %d MiB of file, %.1f MiB of memory in all, error %.60q", c.name, len(c.file)>>20, float64(grown)/(1<<20), fmt.Sprint(err))
		if err != nil && len(err.Error()) > 300 {
			t.Errorf("%s: an error of %d characters", c.name, len(err.Error()))
		}
		if limit := uint64(2*len(c.file) + 64<<20); grown > limit {
			t.Errorf("%s: cost %d bytes of memory, more than %d", c.name, grown, limit)
		}
	}
	_, err := ParseConfig("config.json", fill(`{"a":[[]`, ",[]"))
	checkRefusal(t, "configuration", err, "more values")
}

// Vocabularies of many strings must cost few allocations and little more memory than they hold.
func TestVocabularyIsCompact(t *testing.T) {
	words := make([]string, 50_000)
	size := 0
	for i := range words {
		words[i] = fmt.Sprintf("word%d", i)
		size += len(words[i])
	}
	file := gguf(t, []KV{{"tokenizer.ggml.tokens", words}, {"tokenizer.ggml.scores", make([]float32, len(words))}}, nil)
	var values map[string]any
	allocations := testing.AllocsPerRun(3, func() {
		var err error
		if values, _, err = readGGUF(bytes.NewReader(file), uint64(len(file))); err != nil {
			t.Fatal(err)
		}
	})
	grown := allocated(func() { _, _, _ = readGGUF(bytes.NewReader(file), uint64(len(file))) })
	t.Logf("%d words of %d bytes: %.0f allocations, %d KiB in all", len(words), size, allocations, grown>>10)
	if allocations > 200 || grown > 8<<20 {
		t.Errorf("%.0f allocations, %d bytes", allocations, grown)
	}
	if got := values["tokenizer.ggml.tokens"].([]string); got[0] != "word0" || got[49_999] != "word49999" {
		t.Errorf("words came back as %q … %q", got[0], got[49_999])
	}
}

// Every value kind and tensor format that the writer knows comes back as it was.
func TestGGUFRoundTrip(t *testing.T) {
	pairs := []KV{
		{"a.u8", uint8(200)}, {"a.i8", int8(-2)}, {"a.u16", uint16(65535)}, {"a.i16", int16(-300)}, {"a.u32", uint32(1 << 31)},
		{"a.i32", int32(-1 << 31)}, {"a.f32", float32(1.5)}, {"a.true", true}, {"a.text", "naïve"}, {"a.u64", uint64(1 << 63)},
		{"a.i64", int64(-1 << 63)}, {"a.f64", 0.1}, {"l.u8", []uint8{1, 2}}, {"l.i8", []int8{-1}}, {"l.u16", []uint16{9}},
		{"l.i16", []int16{-9}}, {"l.u32", []uint32{7}}, {"l.i32", []int32{-7, 7}}, {"l.f32", []float32{0.5, 2}},
		{"l.bool", []bool{true, false, true}}, {"l.text", []string{"", "x", "yy"}}, {"l.u64", []uint64{5}},
		{"l.i64", []int64{-5}}, {"l.f64", []float64{1, 2, 3}}, {"general.alignment", uint32(64)},
	}
	var tensors []Tensor
	for _, d := range ggmlTypes {
		shape := tensor.Shape{2, 3, 2 * d.BlockSize()}
		n, err := d.Bytes(shape)
		if err != nil {
			t.Fatal(err)
		}
		tensors = append(tensors, Tensor{d.String(), d, shape, bytes.NewReader(bytes.Repeat([]byte{byte(d)}, int(n)))})
	}
	file := gguf(t, pairs, tensors)
	c := open(t, folder(t, map[string]string{"m.gguf": string(file)}))
	for _, kv := range pairs {
		if got, _ := c.Config().Value(kv.Key); fmt.Sprintf("%T %v", got, got) != fmt.Sprintf("%T %v", kv.Value, kv.Value) {
			t.Errorf("%s: %T %v came back as %T %v", kv.Key, kv.Value, kv.Value, got, got)
		}
	}
	for _, want := range tensors {
		got, ok := c.Lookup(want.Name)
		if !ok || got.DType != want.DType || !got.Shape.Equal(want.Shape) {
			t.Errorf("tensor %q came back as %+v", want.Name, got)
			continue
		}
		data := make([]byte, got.Bytes)
		if err := c.Read(want.Name, data); err != nil || bytes.Count(data, []byte{byte(want.DType)}) != len(data) {
			t.Errorf("tensor %q: data differs, %v", want.Name, err)
		}
	}
	t.Logf("%d values and %d formats came back", len(pairs), len(tensors))
}

func TestWritersRefuse(t *testing.T) {
	one := func(d tensor.DType, bytesGiven int, shape ...int) []Tensor {
		return []Tensor{{"w", d, shape, bytes.NewReader(make([]byte, bytesGiven))}}
	}
	var sink bytes.Buffer
	checkRefusal(t, "short data", WriteGGUF(&sink, nil, one(tensor.F32, 12, 4)), "12 were written")
	checkRefusal(t, "half a block", WriteGGUF(&sink, nil, one(tensor.Q4_0, 9, 16)), "whole blocks")
	checkRefusal(t, "type", WriteGGUF(&sink, nil, one(tensor.Bool, 1, 1)), "cannot store BOOL")
	checkRefusal(t, "value", WriteGGUF(&sink, []KV{{"k", 1}}, nil), "type int cannot")
	checkRefusal(t, "alignment", WriteGGUF(&sink, []KV{{"general.alignment", uint32(3)}}, nil), "power of two")
	checkRefusal(t, "no data", WriteSafetensors(&sink, nil, []Tensor{{Name: "w", DType: tensor.U8, Shape: tensor.Shape{1}}}), "no data")
	checkRefusal(t, "quantised", WriteSafetensors(&sink, nil, one(tensor.Q4_0, 18, 32)), "cannot store Q4_0")
}

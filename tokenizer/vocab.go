package tokenizer

import (
	"fmt"
	"hash/maphash"
)

// Kind says what a token is for. The values are GGUF's tokenizer.ggml.token_type.
type Kind uint8

const (
	Absent      Kind = 0 // no token has this id (a hole in tokenizer.json)
	Normal      Kind = 1
	Unknown     Kind = 2 // special: stands for text the vocabulary cannot spell
	Control     Kind = 3 // special: BOS, EOS, chat turn markers …
	UserDefined Kind = 4 // added, but ordinary text: never special
	Unused      Kind = 5
	Byte        Kind = 6 // <0xNN>, one byte of text
)

// Limits on what a model file may ask for.
const (
	maxTokens      = 16 << 20 // ids fit 24 bits
	maxHoles       = 1 << 20  // unused ids in tokenizer.json
	maxTokenBytes  = 64 << 10 // spelling of one token
	maxAddedBytes  = 4 << 10  // spelling of one added token: bounds the matcher's work per text byte
	maxVocabBytes  = 1 << 30  // all spellings together
	maxMerges      = 32 << 20
	maxStages      = 16        // normalisers, pre-tokenisers, decoders in a Sequence
	maxJSONBytes   = 256 << 20 // tokenizer.json; the largest known is 35 MB
	maxConfigBytes = 16 << 20  // tokenizer_config.json
)

// blob is an array of strings in two allocations.
type blob struct {
	data []byte
	ends []uint32
}

func (b *blob) add(s []byte) {
	b.data = append(b.data, s...)
	b.ends = append(b.ends, uint32(len(b.data)))
}

func (b *blob) at(i int32) []byte {
	start := uint32(0)
	if i > 0 {
		start = b.ends[i-1]
	}
	return b.data[start:b.ends[i]:b.ends[i]]
}

// vocab holds the tokens; index = id.
type vocab struct {
	text  blob   // spelling in the file ("Ġthe", "▁the", "<0x0A>")
	bytes blob   // what Decode writes (" the", "\n")
	kinds []Kind // what it is
	model []bool // the model itself spells text with it (added tokens may lie outside)
	index strtab // spelling → id
}

func (v *vocab) size() int { return len(v.kinds) }

func (v *vocab) valid(id int32) bool {
	return id >= 0 && int(id) < len(v.kinds) && v.kinds[id] != Absent
}

func (v *vocab) special(id int32) bool {
	return v.kinds[id] == Control || v.kinds[id] == Unknown
}

func (v *vocab) find(spelling string) int32 { return v.index.find(spelling) }

// newVocab checks the spellings and indexes them. A spelling that appears twice is an
// error: text could not be mapped to one id. Empty spellings are allowed and never matched.
func newVocab(spellings []string, kinds []Kind) (*vocab, error) {
	if len(spellings) == 0 {
		return nil, fmt.Errorf("tokenizer: the vocabulary is empty; the file has no tokenizer")
	}
	if len(spellings) > maxTokens {
		return nil, fmt.Errorf("tokenizer: %d tokens, more than the limit of %d", len(spellings), maxTokens)
	}
	total := 0
	for id, s := range spellings {
		if len(s) > maxTokenBytes {
			return nil, fmt.Errorf("tokenizer: token %d has %d bytes, more than the limit of %d", id, len(s), maxTokenBytes)
		}
		if total += len(s); total > maxVocabBytes {
			return nil, fmt.Errorf("tokenizer: token texts exceed %d bytes", maxVocabBytes)
		}
	}
	v := &vocab{kinds: kinds, model: make([]bool, len(kinds))}
	v.text = blob{data: make([]byte, 0, total), ends: make([]uint32, 0, len(spellings))}
	for _, s := range spellings {
		v.text.add([]byte(s))
	}
	v.index = newStrtab(&v.text, len(spellings))
	for id, s := range spellings {
		if s == "" {
			continue
		}
		if other := v.index.insert(int32(id)); other >= 0 {
			return nil, fmt.Errorf("tokenizer: tokens %d and %d are both spelled %.40q; the file is damaged, fetch or convert it again", other, id, s)
		}
	}
	return v, nil
}

// setBytes records what each token decodes to.
func (v *vocab) setBytes(decode func(spelling []byte, id int32) []byte) {
	v.bytes = blob{data: make([]byte, 0, len(v.text.data)), ends: make([]uint32, 0, len(v.kinds))}
	for id := range v.kinds {
		v.bytes.add(decode(v.text.at(int32(id)), int32(id)))
	}
}

// strtab is an open-addressing hash set of ids keyed by their entry in a blob.
type strtab struct {
	keys  *blob
	slots []int32 // id+1, 0 = free
	seed  maphash.Seed
	max   int // longest key
}

func newStrtab(keys *blob, n int) strtab {
	size := 8
	for size < n*3/2 {
		size *= 2
	}
	return strtab{keys: keys, slots: make([]int32, size), seed: maphash.MakeSeed()}
}

// insert adds id unless its key is there already; then it returns the id that has it, else -1.
func (t *strtab) insert(id int32) int32 {
	key := t.keys.at(id)
	mask := uint64(len(t.slots) - 1)
	for h := maphash.Bytes(t.seed, key) & mask; ; h = (h + 1) & mask {
		switch other := t.slots[h] - 1; {
		case other < 0:
			t.slots[h] = id + 1
			t.max = max(t.max, len(key))
			return -1
		case string(t.keys.at(other)) == string(key):
			return other
		}
	}
}

// find returns the id whose key is s, or -1.
func (t *strtab) find(s string) int32 {
	if len(s) > t.max || len(s) == 0 {
		return -1
	}
	mask := uint64(len(t.slots) - 1)
	for h := maphash.String(t.seed, s) & mask; ; h = (h + 1) & mask {
		id := t.slots[h] - 1
		if id < 0 || string(t.keys.at(id)) == s {
			return id
		}
	}
}

package tokenizer

import (
	"math"
	"strings"
	"testing"
	"time"
)

const english = `The quick brown fox jumps over the lazy dog, and then it doesn't stop: "Why," asked the dog, "would anybody
run in 2024 when one can sit by the fire and read 12,345 pages of prose?" There is no answer to that. People have
always wondered about such things, and they'll go on wondering long after the last fox has gone home to sleep.
`

// TestEncodeTimeIsLinearOnHostileText fits time = c·n^e between 8 KB and 128 KB, both within the second-level cache (quadratic work would show e = 2).
func TestEncodeTimeIsLinearOnHostileText(t *testing.T) {
	const small, large, limit = 8 << 10, 128 << 10, 1.3
	hostile := map[string]string{
		"one letter": "a", "blanks": " ", "newlines": "\n", "blank and newline": " \n", "digits": "7", "marks": "\u0301", "capitals": "A",
		"capitals after a shared letter": "ªA", "emoji": "🙂", "almost a token": "<|im_en", "words": "the ", "visible space": "▁",
	}
	for _, name := range []string{"bpe_gpt2", "bpe_qwen2", "bpe_o200k", "bpe_deepseek3", "spm_llama", "spm_gemma", "unigram_bytefallback"} {
		tok := loadJSON(t, name)
		worst, text := 0.0, ""
		for what, unit := range hostile {
			e := 0.0
			for range 4 { // a busy machine makes it look worse: the best of a few tries counts
				try := exponent(small, large, func(n int) time.Duration {
					s := strings.Repeat(unit, n/len(unit))
					start := time.Now()
					tok.Encode(s, parse)
					return time.Since(start)
				})
				if e == 0 || try < e {
					e = try
				}
				if e <= limit {
					break
				}
			}
			if e > worst {
				worst, text = e, what
			}
			if e > limit {
				t.Errorf("%s: %s: time exponent %.2f, limit %.1f", name, what, e, limit)
			}
		}
		t.Logf("T22 tokenizer %s: worst time exponent %.2f (%s)", name, worst, text)
	}
}

func TestDecodeTimeIsLinearOnByteRuns(t *testing.T) {
	tok := loadJSON(t, "spm_llama")
	const limit = 1.3
	for _, tail := range []int32{3 + 0x80, 3 + 0xFF} { // a run of good characters, broken at its end or not
		run := func(n int) time.Duration {
			ids := make([]int32, n)
			for i := range ids {
				ids[i] = 3 + int32("é"[i%2])
			}
			ids[n-1] = tail
			start := time.Now()
			s := tok.Stream(true)
			for _, id := range ids {
				s.Push(id)
			}
			s.Flush()
			return time.Since(start)
		}
		e := exponent(8<<10, 128<<10, run)
		for try := 1; try < 4 && e > limit; try++ {
			e = min(e, exponent(8<<10, 128<<10, run))
		}
		t.Logf("time exponent %.2f", e)
		if e > limit {
			t.Errorf("time exponent %.2f", e)
		}
	}
}

// exponent compares one run of the large size with as many runs of the small size as make the same work if time is
// linear. Both last equally long, so that a busy machine disturbs them equally; the best of three counts.
func exponent(small, large int, run func(n int) time.Duration) float64 {
	one, many := math.Inf(1), math.Inf(1)
	for range 3 {
		one = min(one, float64(run(large)))
		sum := time.Duration(0)
		for range large / small {
			sum += run(small)
		}
		many = min(many, float64(sum))
	}
	return 1 + math.Log(one/many)/math.Log(float64(large)/float64(small))
}

func BenchmarkEncodeEnglish(b *testing.B) {
	text := strings.Repeat(english, 100)
	for _, name := range []string{"bpe_gpt2", "bpe_llama3", "bpe_o200k", "spm_llama"} {
		b.Run(name, func(b *testing.B) {
			tok := loadJSON(b, name)
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				tok.Encode(text, parse)
			}
		})
	}
}

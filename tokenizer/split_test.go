package tokenizer

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

var splitAlphabet = strings.Split("a b Z s S ' ' ' l r e v d t m 0 1 9 . , ! < | / - _ \n \r \t é É \u0301 \u0323 ǅ ʰ ª ١ ² ½ Ⅷ ① 今 龥 龦 ひ カ ー 한 न ि ้ ส م 🙂 \u200d \u00a0 \u3000 \u0085 \u2028 \u200b \x00 \x7f ▁ Ġ € $ + 、 \ufffd \U0010ffff", " ")

// The patterns run in a backtracking regexp engine give the pieces by definition. ("ſ" is left out: the engine does
// not fold it; the goldens do.)
func TestSplittersEqualTheirPattern(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	alphabet := append(slices.Clone(splitAlphabet), " ", " ", " ", " ")
	for _, c := range []struct {
		name, pattern string
		want          splitter
	}{
		{"gpt2", gpt2Pattern, gpt2{}}, {"llama3", llama3Pattern, cl100k{}}, {"qwen2", qwen2Pattern, cl100k{}},
		{"qwen35", qwen35Pattern, cl100k{}}, {"o200k", o200kPattern, o200k{}}, {"tekken", tekkenPattern, o200k{}},
		{"deepseek digits", deepseekDigits, digitRuns{}}, {"deepseek cjk", deepseekCJK, cjkRuns{}},
		{"deepseek words", deepseekPattern, deepseekWords{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			fast, err := patternSplitter(c.pattern)
			if err != nil {
				t.Fatal(err)
			}
			if _, slow := fast.(cutter); slow {
				t.Fatal("the pattern has no hand-written splitter")
			}
			reference, err := newBacktracker(c.pattern)
			if err != nil {
				t.Fatal(err)
			}
			for range 4000 {
				var b strings.Builder
				for range 1 + rng.IntN(14) {
					b.WriteString(strings.Repeat(alphabet[rng.IntN(len(alphabet))], 1+rng.IntN(3)))
				}
				text := b.String()
				var got []int
				for at := 0; at < len(text); {
					at += fast.next(text[at:])
					got = append(got, at)
				}
				if want := reference.(cutter).cuts(text); !slices.Equal(got, want) {
					t.Fatalf("%q\n got cuts %v\nwant      %v", text, got, want)
				}
			}
		})
	}
}

func TestLiteralSplitsMergeAsNamed(t *testing.T) {
	for _, c := range []struct {
		merge literalMerge
		want  string
	}{
		{isolated, "_|_|a|_|b|_|_|c|_"},
		{withPrevious, "_|_|a_|b_|_|c_"},
		{withNext, "_|_a|_b|_|_c|_"},
	} {
		text := "__a_b__c_"
		var got []string
		for s := text; s != ""; {
			n := literal{"_", c.merge}.next(s)
			got = append(got, s[:n])
			s = s[n:]
		}
		if strings.Join(got, "|") != c.want {
			t.Errorf("mode %d: %q, want %q", c.merge, strings.Join(got, "|"), c.want)
		}
	}
}

func TestUnknownPatternRunsInTheBacktracker(t *testing.T) {
	s, err := patternSplitter(`\d+(?!x)`)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := s.(cutter).cuts("a12x3é45"), []int{1, 2, 4, 5, 7, 9}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if _, err := patternSplitter(`(`); err == nil {
		t.Error("a broken pattern was accepted")
	}
}

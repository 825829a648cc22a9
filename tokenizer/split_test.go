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
			find, err := regexFinder(c.pattern)
			if err != nil {
				t.Fatal(err)
			}
			for range 4000 {
				var b strings.Builder
				for range 1 + rng.IntN(14) {
					b.WriteString(strings.Repeat(alphabet[rng.IntN(len(alphabet))], 1+rng.IntN(3)))
				}
				text := b.String()
				got := piecesOf(fast, text)
				if want := (cut{find: find}).pieces(text); !slices.Equal(got, want) {
					t.Fatalf("%q\n got pieces %v\nwant        %v", text, got, want)
				}
			}
		})
	}
}

func TestLiteralSplitsMergeAsNamed(t *testing.T) {
	for _, c := range []struct {
		merge cutRule
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
	if got, want := s.(cutter).pieces("a12x3é45"), []span{{0, 1}, {1, 2}, {2, 4}, {4, 5}, {5, 7}, {7, 9}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if _, err := patternSplitter(`(`); err == nil {
		t.Error("a broken pattern was accepted")
	}
	if _, err := patternSplitter(strings.Repeat("a", maxPatternBytes+1)); err == nil {
		t.Error("a huge pattern was accepted")
	}
}

// The expected pieces are what the reference library gives for Split("-", rule, invert).
func TestCutsFollowTheirRule(t *testing.T) {
	for _, c := range []struct {
		rule   string
		invert bool
		want   string
	}{
		{"Isolated", false, "-|-|a|-|b|-|-|c|-"},
		{"Removed", false, "a|b|c"},
		{"MergedWithPrevious", false, "-|-|a-|b-|-|c-"},
		{"MergedWithNext", false, "-|-a|-b|-|-c|-"},
		{"Contiguous", false, "--|a|-|b|--|c|-"},
		{"Removed", true, "-|-|-|-|-|-"},
		{"MergedWithPrevious", true, "-|-a|-b|-|-c|-"},
		{"MergedWithNext", true, "-|-|a-|b-|-|c-"},
		{"Contiguous", true, "--|a|-|b|--|c|-"},
	} {
		text := "--a-b--c-"
		var got []string
		for _, p := range (cut{literals("-"), cutRules[c.rule], c.invert}).pieces(text) {
			got = append(got, text[p.start:p.end])
		}
		if strings.Join(got, "|") != c.want {
			t.Errorf("%s invert %v: %q, want %q", c.rule, c.invert, strings.Join(got, "|"), c.want)
		}
	}
}

func TestPatternsAreTranslatedFromTheReferencesDialect(t *testing.T) {
	for _, c := range []struct{ pattern, text, want string }{
		{`[^\r\n\p{L}\p{N}]?+\p{L}+`, "!ab", "!ab"},
		{`a?+a`, "aa", "aa"},
		{`a++b|a`, "aaac", "a|a|a"},
		{`(ab|a)*+b`, "abab", "b|b"},
		{` ?[^(\s|[.,!?])]+`, "ab, (c) d", "ab|c| d"},
		{`[a[bc]\]]+`, "xab]cx", "ab]c"},
		{`\p{N}{1,3}+`, "12345 67", "12345|67"},
		{`a{1,2}+a`, "aaaaaa", "aaaaaa"},
		{`\p{N}{1,3}`, "12345", "123|45"},
		{`(?=(\d{3})+(?!\d))`, "1234567", "|"},
		{`\w+`, "a\u200db_1é", "a|b_1é"},
		{`[\w.]+`, "a\u200d.b", "a|.b"},
		{`\p{Lu}++|\x{41}`, "AB", "AB"},
	} {
		find, err := regexFinder(c.pattern)
		if err != nil {
			t.Errorf("%s: %v", c.pattern, err)
			continue
		}
		var got []string
		for _, m := range find(c.text) {
			got = append(got, c.text[m.start:m.end])
		}
		if strings.Join(got, "|") != c.want {
			t.Errorf("%s (translated %s) in %q: %q, want %q", c.pattern, translate(c.pattern), c.text, strings.Join(got, "|"), c.want)
		}
	}
}

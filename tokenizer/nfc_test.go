package tokenizer

import (
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/text/unicode/norm"
)

func TestCompositionEqualsTheLibraryOnShortMarkRuns(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	parts := strings.Split("a e A \u0301 \u0323 \u0308 \u0345 \u0344 \u1100 \u1161 \u11a8 \uac00 \u0958 \u2126 \u212b \u1e9b \u09c7 \u09be \u0b47 \u3099 \u30ab \U0001d15e \U00011131 \U00011127 é ạ̈ ᾳ x 今 \u0f71 \u0f72 \u0f73 \xff", " ")
	for range 50000 {
		var b strings.Builder
		for range 1 + rng.IntN(9) {
			b.WriteString(parts[rng.IntN(len(parts))])
		}
		got, _ := unicodeForm{canonical, true}.apply(b.String(), nil)
		if want := norm.NFC.String(b.String()); got != want && !strings.Contains(want, "\xff") {
			t.Fatalf("%+q: got %+q, want %+q", b.String(), got, want)
		}
	}
}

func TestEveryCharacterIsNormalisedLikeTheLibrary(t *testing.T) {
	for _, f := range []unicodeForm{{canonical, true}, {canonical, false}, {compatible, true}, {compatible, false}} {
		for r := rune(0); r <= 0x10FFFF; r++ {
			for _, s := range []string{string(r), norm.NFD.String(string(r))} {
				if got, _ := f.apply(s, nil); got != f.form().String(s) {
					t.Fatalf("%v U+%04X: got %+q, want %+q", f, r, got, f.form().String(s))
				}
			}
		}
	}
}

// The library would insert U+034F after 30 marks; Unicode's NFC and the reference tokenizers do not.
func TestLongMarkRunsGetNothingInserted(t *testing.T) {
	marks := strings.Repeat("\u0301", 100)
	if got, _ := (unicodeForm{canonical, true}).apply("e"+marks, nil); got != "é"+marks[2:] {
		t.Errorf("got %+q", got)
	}
	low := strings.Repeat("\u0323", 40)
	if got, _ := (unicodeForm{canonical, true}).apply("q"+marks+low, nil); got != "q"+low+marks {
		t.Errorf("got %+q", got)
	}
}

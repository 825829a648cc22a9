package tokenizer

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// streamed decodes id by id and checks that every part is whole characters.
func streamed(t testing.TB, tok *Tokenizer, ids []int32, skip bool) string {
	t.Helper()
	s := tok.Stream(skip)
	var b strings.Builder
	for _, id := range ids {
		part := s.Push(id)
		if !utf8.ValidString(part) {
			t.Fatalf("Push(%d) = %q, which splits a character (ids %v)", id, part, ids)
		}
		b.WriteString(part)
	}
	b.WriteString(s.Flush())
	return b.String()
}

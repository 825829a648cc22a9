package explain

import (
	"fmt"

	"sestina/bench/techniques"
)

// Stack adds what `sestina bench techniques` measured to the section of all
// techniques together, where the report has it.
func (r *Report) Stack(b *techniques.Report) {
	s := r.section("stacked")
	if s == nil {
		return
	}
	c := b.Config
	s.Notes = append(s.Notes, fmt.Sprintf("measured on %s, %s: %d users, prompts of %d tokens, answers of %d and %d", b.Model, b.Machine, c.Users, c.PromptLen, c.OutputLen, max(c.OutputLen, c.LongLen)))
	for _, row := range b.Rows {
		if row.NotBuilt != "" {
			if row.Group == techniques.Ladder {
				s.Notes = append(s.Notes, row.Name[len("+ "):]+": "+row.NotBuilt)
			}
			continue
		}
		s.measured(row.Name, row.Speed, "tok/s", about(row))
	}
	s.measured("product of single gains", b.Product, "x", "each technique off in turn")
	s.measured("all on over naive", b.Total, "x", "")
	if n := b.Differing(); n > 0 {
		s.Notes = append(s.Notes, fmt.Sprintf("%d answers differ from those with all on: a technique has changed an answer", n))
	}
	s.draw("-measured", b.Chart())
}

// about is a row's gain and size in words.
func about(row techniques.Row) string {
	text := fmt.Sprintf("%d users", row.Users)
	switch {
	case row.Gain > 0 && row.Group == techniques.Ladder:
		text += fmt.Sprintf("; %.2fx the rung before", row.Gain)
	case row.Gain > 0:
		text += fmt.Sprintf("; on, %.2fx as fast", row.Gain)
	}
	if row.Against != "" {
		text += " (" + row.Against + ")"
	}
	return text
}

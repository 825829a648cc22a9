package plan

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Print writes the plan for people.
func (p *Plan) Print(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	s := &p.Shape
	line := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	line("model", "%s: %d layers, %d query heads in %d groups, heads of %d", s.Name, s.Layers, s.Heads, s.KVHeads, s.HeadDim)
	if s.Params > 0 {
		line("weights", "%s: %.1f million parameters, %s", Bytes(s.WeightBytes), float64(s.Params)/1e6, s.WeightFormat)
	}
	if s.WorkBytes > 0 {
		line("work space", "%s for the largest step", Bytes(s.WorkBytes))
	}
	line("KV cache", "%s a token in %s, %s a block of %d", Bytes(p.TokenBytes), p.KVDType, Bytes(p.BlockBytes), p.BlockSize)
	if n := len(p.Windows); n > 1 {
		full := 0
		for _, w := range p.Windows {
			if w == 0 {
				full++
			}
		}
		line("", "its layers are in %d block groups, %d of them without a window; a block is one group's", n, full)
	}
	line("one user", "%s at %d tokens", Bytes(p.UserBytes), p.Context)
	if p.UserBytes < p.AllBytes {
		line("", "%s if every layer kept all tokens (%.1f times as much)", Bytes(p.AllBytes), float64(p.AllBytes)/float64(p.UserBytes))
	}
	if s.Heads > s.KVHeads {
		line("", "%s without grouped-query attention (%d times as much)", Bytes(p.MHABytes), s.Heads/s.KVHeads)
	}
	if p.Users > 1 {
		line(fmt.Sprintf("%d users", p.Users), "%s", Bytes(p.KVBytes))
	}
	line("total", "%s", Bytes(p.TotalBytes))
	if f := p.Fit; f != nil {
		p.printFit(line, f)
	}
	w.Flush()
}

func (p *Plan) printFit(line func(name, format string, args ...any), f *Fit) {
	memory := Bytes(f.Memory)
	switch {
	case !f.Weights:
		line("in "+memory, "the weights alone do not fit: choose a smaller format or model")
		return
	case f.All:
		line("in "+memory, "fits, %s are left for more", Bytes(f.Memory-p.TotalBytes))
	default:
		line("in "+memory, "does not fit: %s are missing", Bytes(p.TotalBytes-f.Memory))
	}
	line("", "%s for the KV cache: %d users of %d tokens, or %d users of up to %d tokens", Bytes(f.Left), f.Users, p.Context, p.Users, f.Context)
	for _, r := range p.Largest {
		line("", "%d users of %d tokens (%s each)", r.Users, r.Context, Bytes(r.Bytes))
	}
}

// Bytes writes a size in powers of 1024.
func Bytes(n uint64) string {
	v, unit := float64(n), 0
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	for v >= 1024 && unit < len(units)-1 {
		v /= 1024
		unit++
	}
	if v == float64(uint64(v)) {
		return fmt.Sprintf("%.0f %s", v, units[unit])
	}
	return fmt.Sprintf("%.1f %s", v, units[unit])
}

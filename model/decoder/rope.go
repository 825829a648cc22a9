package decoder

import (
	"fmt"
	"math"

	"sestina/checkpoint"
)

// Rope is rotary position embedding (Su et al. 2021) and its context-extension
// rules: linear (Chen et al. 2023), llama3 and YaRN (Peng et al. 2023).
type Rope struct {
	Theta       float64
	Dim         int  // rotated width of a head
	Interleaved bool // pairs (2k, 2k+1): GGUF files of llama and smollm3

	Type     string // "default", "linear", "llama3", "yarn"
	Factor   float64
	Original int // context before scaling
	Low      float64
	High     float64 // llama3: low_freq_factor, high_freq_factor
	BetaFast float64
	BetaSlow float64 // yarn
	Truncate bool    // yarn: round the ramp's ends outwards
	Scale    float64 // yarn: factor on cos and sin

	Divisors []float32 // GGUF rope_freqs.weight: divides each frequency
}

func (p *Rope) validate() error {
	switch p.Type {
	case "default":
		return nil
	case "linear", "llama3", "yarn":
		if !(p.Factor >= 1 && p.Factor < 1e6) {
			return fmt.Errorf("config: rope scaling factor %v must be in [1, 1e6)", p.Factor)
		}
	default:
		return fmt.Errorf("config: rope type %q is not built (default, dynamic, linear, llama3, yarn are)", p.Type)
	}
	if p.Type == "llama3" && !(p.Low > 0 && p.High > p.Low) {
		return fmt.Errorf("config: llama3 rope needs 0 < low_freq_factor (%v) < high_freq_factor (%v)", p.Low, p.High)
	}
	if p.Type != "linear" && p.Original < 1 {
		return fmt.Errorf("config: rope type %q needs original_max_position_embeddings", p.Type)
	}
	if p.Type == "yarn" {
		return p.validateYarn()
	}
	return nil
}

// validateYarn keeps the ramp's logarithms and the scale finite.
func (p *Rope) validateYarn() error {
	for _, f := range []struct {
		name string
		v    float64
	}{{"beta_fast", p.BetaFast}, {"beta_slow", p.BetaSlow}, {"attention scale", p.Scale}} {
		if !(f.v > 0 && f.v < 1e6) {
			return fmt.Errorf("config: yarn %s %v must be in (0, 1e6)", f.name, f.v)
		}
	}
	if p.Theta <= 1 {
		return fmt.Errorf("config: yarn needs a rope theta above 1, not %v", p.Theta)
	}
	return nil
}

// readRopeHF reads rope_theta with rope_scaling, or rope_parameters.
func readRopeHF(r *checkpoint.Reader, headDim, context int) Rope {
	either := func(key string) string { return r.First("rope_scaling."+key, "rope_parameters."+key, key) }
	p := Rope{
		Theta:    r.FloatOr(r.First("rope_theta", "rope_parameters.rope_theta"), 10000),
		Type:     r.StringOr(r.First("rope_scaling.rope_type", "rope_parameters.rope_type", "rope_scaling.type", "rope_parameters.type"), "default"),
		Factor:   r.FloatOr(either("factor"), 1),
		Original: r.IntOr(either("original_max_position_embeddings"), context),
		Low:      r.FloatOr(either("low_freq_factor"), 1),
		High:     r.FloatOr(either("high_freq_factor"), 4),
		BetaFast: r.FloatOr(either("beta_fast"), 32),
		BetaSlow: r.FloatOr(either("beta_slow"), 1),
		Truncate: r.BoolOr(either("truncate"), true),
	}
	if p.Type == "dynamic" { // stretches only positions beyond the trained context, which are not served
		p.Type = "default"
	}
	p.Dim = int(float64(headDim) * r.FloatOr(either("partial_rotary_factor"), 1))
	mscale, all := r.FloatOr(either("mscale"), 0), r.FloatOr(either("mscale_all_dim"), 0)
	attn := r.FloatOr(either("attention_factor"), 0)
	switch {
	case attn != 0:
		p.Scale = attn
	case mscale != 0 && all != 0:
		p.Scale = yarnScale(p.Factor, mscale) / yarnScale(p.Factor, all)
	default:
		p.Scale = yarnScale(p.Factor, 1)
	}
	return p
}

// readRopeGGUF reads {arch}.rope.*. llama3 scaling arrives as the tensor
// rope_freqs.weight, which the loader puts into Divisors.
func readRopeGGUF(r *checkpoint.Reader, arch string, headDim, context int) Rope {
	k := arch + ".rope."
	p := Rope{
		Theta:    r.FloatOr(k+"freq_base", 10000),
		Dim:      r.IntOr(k+"dimension_count", headDim),
		Type:     r.StringOr(k+"scaling.type", "default"),
		Factor:   r.FloatOr(r.First(k+"scaling.factor", k+"scale_linear"), 1),
		Original: r.IntOr(k+"scaling.original_context_length", context),
		BetaFast: r.FloatOr(k+"scaling.yarn_beta_fast", 32),
		BetaSlow: r.FloatOr(k+"scaling.yarn_beta_slow", 1),
		Truncate: true,
	}
	p.Scale = yarnScale(p.Factor, 1) * r.FloatOr(k+"scaling.attn_factor", 1)
	if p.Type == "none" {
		p.Type = "default"
	}
	if p.Type == "default" && p.Factor != 1 {
		p.Type = "linear"
	}
	return p
}

func yarnScale(factor, c float64) float64 {
	if factor <= 1 {
		return 1
	}
	return 0.1*c*math.Log(factor) + 1
}

// frequencies returns the angle per position of each rotated pair, [Dim/2], and
// the factor on cos and sin.
func (p *Rope) frequencies() ([]float32, float32) {
	inv := make([]float32, p.Dim/2)
	for k := range inv {
		f := math.Pow(p.Theta, -2*float64(k)/float64(p.Dim))
		switch p.Type {
		case "linear":
			f /= p.Factor
		case "llama3":
			f = p.llama3(f)
		case "yarn":
			ramp := p.yarnRamp(k)
			f = f/p.Factor*ramp + f*(1-ramp)
		}
		inv[k] = float32(f)
		if p.Divisors != nil {
			inv[k] /= p.Divisors[k]
		}
	}
	if p.Type == "yarn" {
		return inv, float32(p.Scale)
	}
	return inv, 1
}

// llama3 keeps short wavelengths, divides long ones and blends between.
func (p *Rope) llama3(f float64) float64 {
	wavelength := 2 * math.Pi / f
	switch orig := float64(p.Original); {
	case wavelength < orig/p.High:
		return f
	case wavelength > orig/p.Low:
		return f / p.Factor
	default:
		s := (orig/wavelength - p.Low) / (p.High - p.Low)
		return (1-s)*f/p.Factor + s*f
	}
}

// yarnRamp is 0 where a pair turns often enough to be kept, 1 where it is interpolated.
func (p *Rope) yarnRamp(k int) float64 {
	dim := func(turns float64) float64 {
		return float64(p.Dim) * math.Log(float64(p.Original)/(turns*2*math.Pi)) / (2 * math.Log(p.Theta))
	}
	low, high := dim(p.BetaFast), dim(p.BetaSlow)
	if p.Truncate {
		low, high = math.Floor(low), math.Ceil(high)
	}
	low, high = max(low, 0), min(high, float64(p.Dim-1))
	if low == high {
		high += 0.001
	}
	return min(max((float64(k)-low)/(high-low), 0), 1)
}

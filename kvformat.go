package sestina

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"sestina/tensor"
)

// KVFormat is --kv-cache-dtype: one format for K and V, and others for some layers.
//
//	q8_0               everywhere
//	q4_0,0-1=f16,29=f16  q4_0, but f16 in layers 0, 1 and 29
type KVFormat struct {
	DType  tensor.DType
	layers []layerFormat
}

type layerFormat struct {
	first, last int
	dtype       tensor.DType
}

const kvChoices = "choose auto, f32, f16, bf16, q8_0 or q4_0"

// ParseKVFormat reads a format; "" and auto are f16.
func ParseKVFormat(text string) (f KVFormat, err error) {
	first, rest, more := strings.Cut(text, ",")
	if f.DType, err = kvDType(first); err != nil {
		return f, err
	}
	for more {
		var part string
		part, rest, more = strings.Cut(rest, ",")
		layers, name, ok := strings.Cut(part, "=")
		from, to, span := strings.Cut(layers, "-")
		if !span {
			to = from
		}
		var l layerFormat
		var err1, err2 error
		l.first, err1 = strconv.Atoi(from)
		l.last, err2 = strconv.Atoi(to)
		if !ok || err1 != nil || err2 != nil || l.first < 0 || l.last < l.first || strings.ContainsAny(layers, "+ ") {
			return f, fmt.Errorf("--kv-cache-dtype: %q is not LAYER=DTYPE or FIRST-LAST=DTYPE, as in q4_0,0-1=f16,29=f16", part)
		}
		if l.dtype, err = kvDType(name); err != nil {
			return f, err
		}
		for _, o := range f.layers {
			if l.first <= o.last && o.first <= l.last {
				return f, fmt.Errorf("--kv-cache-dtype: layer %d has two formats", max(l.first, o.first))
			}
		}
		f.layers = append(f.layers, l)
	}
	return f, nil
}

func kvDType(name string) (tensor.DType, error) {
	if name == "" || name == "auto" {
		return tensor.F16, nil
	}
	for _, d := range []tensor.DType{tensor.F16, tensor.F32, tensor.BF16, tensor.Q8_0, tensor.Q4_0} {
		if name == strings.ToLower(d.String()) {
			return d, nil
		}
	}
	if name == "fp8" {
		return 0, fmt.Errorf("--kv-cache-dtype %s is not built yet; %s", name, kvChoices)
	}
	return 0, fmt.Errorf("--kv-cache-dtype %q is unknown; %s", name, kvChoices)
}

// Layers is the format of each of n layers; nil when all have DType.
func (f KVFormat) Layers(n int) ([]tensor.DType, error) {
	if len(f.layers) == 0 {
		return nil, nil
	}
	all := slices.Repeat([]tensor.DType{f.DType}, n)
	for _, l := range f.layers {
		if l.last >= n {
			return nil, fmt.Errorf("--kv-cache-dtype: there is no layer %d; the model's are 0 to %d", l.last, n-1)
		}
		for i := l.first; i <= l.last; i++ {
			all[i] = l.dtype
		}
	}
	return all, nil
}

// String is the format as it is given: layers that have the format of the others are left out.
func (f KVFormat) String() string {
	s := strings.ToLower(f.DType.String())
	layers := slices.Clone(f.layers)
	slices.SortFunc(layers, func(a, b layerFormat) int { return a.first - b.first })
	for _, l := range layers {
		if l.dtype == f.DType {
			continue
		}
		s += fmt.Sprintf(",%d", l.first)
		if l.last > l.first {
			s += fmt.Sprintf("-%d", l.last)
		}
		s += "=" + strings.ToLower(l.dtype.String())
	}
	return s
}

// Package datatest reads the data that tests compare with. A missing file
// fails the test; it never skips.
package datatest

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"testing"
)

// Arrays are the tensors of a golden file by name.
type Arrays map[string]Array

// Array is one F32 or I32 tensor.
type Array struct {
	Shape []int
	F32   []float32
	I32   []int32
}

// Row is row i of a 2-D float array.
func (a Array) Row(i int) []float32 { return a.F32[i*a.Shape[1] : (i+1)*a.Shape[1]] }

// Safetensors reads a golden file of F32 and I32 tensors.
func Safetensors(t testing.TB, path string) Arrays {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("golden file: %v", err)
	}
	n := binary.LittleEndian.Uint64(data)
	var header map[string]struct {
		DType   string `json:"dtype"`
		Shape   []int  `json:"shape"`
		Offsets [2]int `json:"data_offsets"`
	}
	if err := json.Unmarshal(data[8:8+n], &header); err != nil {
		t.Fatalf("golden file %s: %v", path, err)
	}
	out := Arrays{}
	for name, h := range header {
		raw := data[8+int(n):][h.Offsets[0]:h.Offsets[1]]
		a := Array{Shape: h.Shape}
		for i := 0; i+4 <= len(raw); i += 4 {
			u := binary.LittleEndian.Uint32(raw[i:])
			if h.DType == "I32" {
				a.I32 = append(a.I32, int32(u))
			} else {
				a.F32 = append(a.F32, math.Float32frombits(u))
			}
		}
		out[name] = a
	}
	return out
}

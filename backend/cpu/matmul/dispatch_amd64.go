//go:build !purego

package matmul

import (
	"errors"
	"sync"

	"sestina/internal/cpuinfo"
	"sestina/tensor"
)

//go:generate sh -c "cd _asm && go run . -family int8amx -out ../int8_amx_amd64.s -stubs ../int8_amx_amd64.go -pkg matmul"
//go:generate sh -c "cd _asm && go run . -family int8wide -out ../int8_wide_amd64.s -stubs ../int8_wide_amd64.go -pkg matmul"
//go:generate sh -c "cd _asm && go run . -family int8avx512 -out ../int8_avx512_amd64.s -stubs ../int8_avx512_amd64.go -pkg matmul"
//go:generate sh -c "cd _asm && go run . -family int8avx2 -out ../int8_avx2_amd64.s -stubs ../int8_avx2_amd64.go -pkg matmul"
//go:generate sh -c "cd _asm && go run . -family float -out ../float_amd64.s -stubs ../float_amd64.go -pkg matmul"
//go:generate sh -c "cd _asm && go run . -family bf16 -out ../bf16_amd64.s -stubs ../bf16_amd64.go -pkg matmul"
//go:generate sh -c "cd _asm && go run . -family bf16amx -out ../bf16_amx_amd64.s -stubs ../bf16_amx_amd64.go -pkg matmul"
//go:generate sh -c "cd _asm && go run . -family convert -out ../convert_amd64.s -stubs ../convert_amd64.go -pkg matmul"

func kernelsFor(isa ISA) *Kernels {
	switch {
	case isa == Generic:
		return genericKernels
	case isa == AVX2 && cpuinfo.AVX2:
		return avx2Kernels
	case isa == AVX512VNNI && cpuinfo.AVX512VNNI:
		return avx512()
	case isa == AMX:
		return amx().kernels
	}
	return nil
}

// avx512 is the set for AVX-512. VDPBF16PS must be there and give the contract's bits; else two FMAs do its work.
var avx512 = sync.OnceValue(func() *Kernels {
	k := *avx512Kernels
	if k.bf16 = avx2BF16; cpuinfo.AVX512BF16 && dotsAgree(avx512BF16) {
		k.bf16 = avx512BF16
	}
	return &k
})

// amx is the set for AMX, or why there is none although the processor has tiles, or why it leaves BF16 to avx512.
var amx = sync.OnceValue(func() (set struct {
	kernels                *Kernels
	refused, refusedBlocks error
}) {
	if !cpuinfo.AMXInt8 {
		return set
	}
	if set.refused = cpuinfo.RequestTiles(); set.refused != nil {
		return set
	}
	if !squaresAgree(amxSquares[tensor.Q8_0]) {
		set.refused = errors.New("a product of tiles differs from its definition")
		return set
	}
	k := *avx512()
	k.ISA, k.squares = AMX, []map[tensor.DType]squares{amxSquares, wideSquares}
	if cpuinfo.AMXBF16 && blocksAgree(amxBlocks) {
		k.blocks = amxBlocks
	} else if cpuinfo.AMXBF16 {
		set.refusedBlocks = errors.New("a product of bf16 tiles differs from its definition")
	}
	set.kernels = &k
	return set
})

func whyNoAMX() error    { return amx().refused }
func whyNoBlocks() error { return amx().refusedBlocks }

var amxBlocks = &blockKernels{wide: bf16x32x32AMX, narrow: bf16x32x16AMX, few: bf16x16x16AMX, piece: blockPiece}

var amxSquares = map[tensor.DType]squares{
	tensor.Q4_0: {16, 1, 32, int8Q40AMX}, tensor.Q4_1: {16, 1, 32, int8Q41AMX}, tensor.Q5_0: {16, 1, 32, int8Q50AMX},
	tensor.Q5_1: {16, 1, 32, int8Q51AMX}, tensor.Q8_0: {16, 1, 32, int8Q80AMX}, tensor.Q4_K: {16, 1, 32, int8Q4KAMX},
	tensor.Q5_K: {16, 1, 32, int8Q5KAMX}, tensor.Q3_K: {16, 1, 32, int8Q3KAMX},
	tensor.IQ4_NL: {16, 1, 32, int8IQ4NLAMX}, tensor.MXFP4: {16, 1, 32, int8MXFP4AMX},
}

// wideSquares unpack once for all rows what the tiles unpack for every six. The less there is to unpack, the more rows it takes
// to pay.
var wideSquares = map[tensor.DType]squares{
	tensor.Q4_0: {6, 2, 48, int8Q40WideAVX512}, tensor.Q4_1: {6, 2, 48, int8Q41WideAVX512},
	tensor.Q5_0: {6, 2, 24, int8Q50WideAVX512}, tensor.Q5_1: {6, 2, 24, int8Q51WideAVX512},
	tensor.Q4_K: {6, 2, 24, int8Q4KWideAVX512}, tensor.Q5_K: {6, 2, 24, int8Q5KWideAVX512},
	tensor.Q6_K: {4, 2, 12, int8Q6KWideAVX512}, tensor.Q2_K: {6, 2, 12, int8Q2KWideAVX512},
	tensor.Q3_K: {6, 2, 12, int8Q3KWideAVX512}, tensor.IQ4_NL: {6, 2, 24, int8IQ4NLWideAVX512},
	tensor.MXFP4: {6, 2, 24, int8MXFP4WideAVX512},
}

var avx512BF16 = []tile{
	{8, 2, bf16x8x2AVX512}, {8, 1, bf16x8x1AVX512}, {4, 1, bf16x4x1AVX512}, {2, 1, bf16x2x1AVX512}, {1, 1, bf16x1x1AVX512},
}

var avx2BF16 = []tile{
	{4, 1, bf16x4x1AVX2}, {2, 2, bf16x2x2AVX2}, {2, 1, bf16x2x1AVX2}, {1, 2, bf16x1x2AVX2}, {1, 1, bf16x1x1AVX2},
}

// dequantizeAVX2 serves both sets: it is a small part of the work of several rows.
var dequantizeAVX2 = map[tensor.DType]dequantFunc{
	tensor.Q4_0:   widenQ40AVX2,
	tensor.Q4_1:   widenQ41AVX2,
	tensor.Q5_0:   widenQ50AVX2,
	tensor.Q5_1:   widenQ51AVX2,
	tensor.Q8_0:   widenQ80AVX2,
	tensor.Q4_K:   widenQ4KAVX2,
	tensor.Q5_K:   widenQ5KAVX2,
	tensor.Q6_K:   widenQ6KAVX2,
	tensor.Q2_K:   widenQ2KAVX2,
	tensor.Q3_K:   widenQ3KAVX2,
	tensor.IQ4_NL: widenIQ4NLAVX2,
	tensor.MXFP4:  widenMXFP4AVX2,
}

var avx512Kernels = &Kernels{
	ISA: AVX512VNNI,
	tiles: map[tensor.DType][]tile{
		tensor.Q4_0: {
			{6, 2, int8Q40x6x2AVX512}, {6, 1, int8Q40x6x1AVX512}, {8, 1, int8Q40x8x1AVX512}, {7, 1, int8Q40x7x1AVX512},
			{5, 1, int8Q40x5x1AVX512}, {4, 2, int8Q40x4x2AVX512}, {4, 1, int8Q40x4x1AVX512}, {3, 1, int8Q40x3x1AVX512},
			{2, 1, int8Q40x2x1AVX512}, {1, 1, int8Q40x1x1AVX512},
		},
		tensor.Q4_1: {
			{6, 2, int8Q41x6x2AVX512}, {6, 1, int8Q41x6x1AVX512}, {8, 1, int8Q41x8x1AVX512}, {7, 1, int8Q41x7x1AVX512},
			{5, 1, int8Q41x5x1AVX512}, {4, 2, int8Q41x4x2AVX512}, {4, 1, int8Q41x4x1AVX512}, {3, 1, int8Q41x3x1AVX512},
			{2, 1, int8Q41x2x1AVX512}, {1, 1, int8Q41x1x1AVX512},
		},
		tensor.Q5_0: {
			{6, 2, int8Q50x6x2AVX512}, {6, 1, int8Q50x6x1AVX512}, {8, 1, int8Q50x8x1AVX512}, {7, 1, int8Q50x7x1AVX512},
			{5, 1, int8Q50x5x1AVX512}, {4, 2, int8Q50x4x2AVX512}, {4, 1, int8Q50x4x1AVX512}, {3, 1, int8Q50x3x1AVX512},
			{2, 1, int8Q50x2x1AVX512}, {1, 1, int8Q50x1x1AVX512},
		},
		tensor.Q5_1: {
			{6, 2, int8Q51x6x2AVX512}, {6, 1, int8Q51x6x1AVX512}, {8, 1, int8Q51x8x1AVX512}, {7, 1, int8Q51x7x1AVX512},
			{5, 1, int8Q51x5x1AVX512}, {4, 2, int8Q51x4x2AVX512}, {4, 1, int8Q51x4x1AVX512}, {3, 1, int8Q51x3x1AVX512},
			{2, 1, int8Q51x2x1AVX512}, {1, 1, int8Q51x1x1AVX512},
		},
		tensor.Q8_0: {
			{6, 2, int8Q80x6x2AVX512}, {6, 1, int8Q80x6x1AVX512}, {8, 1, int8Q80x8x1AVX512}, {7, 1, int8Q80x7x1AVX512},
			{5, 1, int8Q80x5x1AVX512}, {4, 1, int8Q80x4x1AVX512}, {3, 1, int8Q80x3x1AVX512}, {2, 1, int8Q80x2x1AVX512},
			{1, 1, int8Q80x1x1AVX512},
		},
		tensor.Q4_K: {
			{6, 2, int8Q4Kx6x2AVX512}, {6, 1, int8Q4Kx6x1AVX512}, {8, 1, int8Q4Kx8x1AVX512}, {7, 1, int8Q4Kx7x1AVX512},
			{5, 1, int8Q4Kx5x1AVX512}, {4, 2, int8Q4Kx4x2AVX512}, {4, 1, int8Q4Kx4x1AVX512}, {3, 1, int8Q4Kx3x1AVX512},
			{2, 1, int8Q4Kx2x1AVX512}, {1, 1, int8Q4Kx1x1AVX512},
		},
		tensor.Q5_K: {
			{6, 2, int8Q5Kx6x2AVX512}, {6, 1, int8Q5Kx6x1AVX512}, {8, 1, int8Q5Kx8x1AVX512}, {7, 1, int8Q5Kx7x1AVX512},
			{5, 1, int8Q5Kx5x1AVX512}, {4, 2, int8Q5Kx4x2AVX512}, {4, 1, int8Q5Kx4x1AVX512}, {3, 1, int8Q5Kx3x1AVX512},
			{2, 1, int8Q5Kx2x1AVX512}, {1, 1, int8Q5Kx1x1AVX512},
		},
		tensor.Q6_K: {
			{8, 1, int8Q6Kx8x1AVX512}, {7, 1, int8Q6Kx7x1AVX512}, {6, 1, int8Q6Kx6x1AVX512}, {5, 1, int8Q6Kx5x1AVX512},
			{4, 2, int8Q6Kx4x2AVX512}, {4, 1, int8Q6Kx4x1AVX512}, {3, 1, int8Q6Kx3x1AVX512}, {2, 1, int8Q6Kx2x1AVX512},
			{1, 1, int8Q6Kx1x1AVX512},
		},
		tensor.Q2_K: {
			{8, 1, int8Q2Kx8x1AVX512}, {7, 1, int8Q2Kx7x1AVX512}, {6, 1, int8Q2Kx6x1AVX512}, {5, 1, int8Q2Kx5x1AVX512},
			{4, 2, int8Q2Kx4x2AVX512}, {4, 1, int8Q2Kx4x1AVX512}, {3, 1, int8Q2Kx3x1AVX512}, {2, 1, int8Q2Kx2x1AVX512},
			{1, 1, int8Q2Kx1x1AVX512},
		},
		tensor.Q3_K: {
			{8, 1, int8Q3Kx8x1AVX512}, {7, 1, int8Q3Kx7x1AVX512}, {6, 1, int8Q3Kx6x1AVX512}, {5, 1, int8Q3Kx5x1AVX512},
			{4, 2, int8Q3Kx4x2AVX512}, {4, 1, int8Q3Kx4x1AVX512}, {3, 1, int8Q3Kx3x1AVX512}, {2, 1, int8Q3Kx2x1AVX512},
			{1, 1, int8Q3Kx1x1AVX512},
		},
		tensor.IQ4_NL: {
			{6, 2, int8IQ4NLx6x2AVX512}, {6, 1, int8IQ4NLx6x1AVX512}, {8, 1, int8IQ4NLx8x1AVX512}, {7, 1, int8IQ4NLx7x1AVX512},
			{5, 1, int8IQ4NLx5x1AVX512}, {4, 2, int8IQ4NLx4x2AVX512}, {4, 1, int8IQ4NLx4x1AVX512}, {3, 1, int8IQ4NLx3x1AVX512},
			{2, 1, int8IQ4NLx2x1AVX512}, {1, 1, int8IQ4NLx1x1AVX512},
		},
		tensor.MXFP4: {
			{6, 2, int8MXFP4x6x2AVX512}, {6, 1, int8MXFP4x6x1AVX512}, {8, 1, int8MXFP4x8x1AVX512}, {7, 1, int8MXFP4x7x1AVX512},
			{5, 1, int8MXFP4x5x1AVX512}, {4, 2, int8MXFP4x4x2AVX512}, {4, 1, int8MXFP4x4x1AVX512}, {3, 1, int8MXFP4x3x1AVX512},
			{2, 1, int8MXFP4x2x1AVX512}, {1, 1, int8MXFP4x1x1AVX512},
		},
		tensor.F32: {
			{8, 2, floatF32x8x2AVX512}, {8, 1, floatF32x8x1AVX512}, {4, 2, floatF32x4x2AVX512}, {4, 1, floatF32x4x1AVX512},
			{2, 2, floatF32x2x2AVX512}, {2, 1, floatF32x2x1AVX512}, {1, 2, floatF32x1x2AVX512}, {1, 1, floatF32x1x1AVX512},
		},
		tensor.F16: {
			{8, 2, floatF16x8x2AVX512}, {8, 1, floatF16x8x1AVX512}, {4, 2, floatF16x4x2AVX512}, {4, 1, floatF16x4x1AVX512},
			{2, 2, floatF16x2x2AVX512}, {2, 1, floatF16x2x1AVX512}, {1, 2, floatF16x1x2AVX512}, {1, 1, floatF16x1x1AVX512},
		},
		tensor.BF16: {
			{8, 2, floatBF16x8x2AVX512}, {8, 1, floatBF16x8x1AVX512}, {4, 2, floatBF16x4x2AVX512}, {4, 1, floatBF16x4x1AVX512},
			{2, 2, floatBF16x2x2AVX512}, {2, 1, floatBF16x2x1AVX512}, {1, 2, floatBF16x1x2AVX512}, {1, 1, floatBF16x1x1AVX512},
		},
	},
	squares:    []map[tensor.DType]squares{wideSquares},
	dequantize: dequantizeAVX2,
	quantize:   quantizeAVX2,
	round:      roundAVX2,
	read:       readAVX2,
}

var avx2Kernels = &Kernels{
	ISA: AVX2,
	tiles: map[tensor.DType][]tile{
		tensor.Q4_0:   {{4, 1, int8Q40x4x1AVX2}, {3, 1, int8Q40x3x1AVX2}, {2, 1, int8Q40x2x1AVX2}, {1, 1, int8Q40x1x1AVX2}},
		tensor.Q4_1:   {{4, 1, int8Q41x4x1AVX2}, {3, 1, int8Q41x3x1AVX2}, {2, 1, int8Q41x2x1AVX2}, {1, 1, int8Q41x1x1AVX2}},
		tensor.Q5_0:   {{4, 1, int8Q50x4x1AVX2}, {3, 1, int8Q50x3x1AVX2}, {2, 1, int8Q50x2x1AVX2}, {1, 1, int8Q50x1x1AVX2}},
		tensor.Q5_1:   {{4, 1, int8Q51x4x1AVX2}, {3, 1, int8Q51x3x1AVX2}, {2, 1, int8Q51x2x1AVX2}, {1, 1, int8Q51x1x1AVX2}},
		tensor.Q8_0:   {{4, 1, int8Q80x4x1AVX2}, {3, 1, int8Q80x3x1AVX2}, {2, 1, int8Q80x2x1AVX2}, {1, 1, int8Q80x1x1AVX2}},
		tensor.Q4_K:   {{4, 1, int8Q4Kx4x1AVX2}, {3, 1, int8Q4Kx3x1AVX2}, {2, 1, int8Q4Kx2x1AVX2}, {1, 1, int8Q4Kx1x1AVX2}},
		tensor.Q5_K:   {{4, 1, int8Q5Kx4x1AVX2}, {3, 1, int8Q5Kx3x1AVX2}, {2, 1, int8Q5Kx2x1AVX2}, {1, 1, int8Q5Kx1x1AVX2}},
		tensor.Q6_K:   {{4, 1, int8Q6Kx4x1AVX2}, {3, 1, int8Q6Kx3x1AVX2}, {2, 1, int8Q6Kx2x1AVX2}, {1, 1, int8Q6Kx1x1AVX2}},
		tensor.Q2_K:   {{4, 1, int8Q2Kx4x1AVX2}, {3, 1, int8Q2Kx3x1AVX2}, {2, 1, int8Q2Kx2x1AVX2}, {1, 1, int8Q2Kx1x1AVX2}},
		tensor.Q3_K:   {{4, 1, int8Q3Kx4x1AVX2}, {3, 1, int8Q3Kx3x1AVX2}, {2, 1, int8Q3Kx2x1AVX2}, {1, 1, int8Q3Kx1x1AVX2}},
		tensor.IQ4_NL: {{4, 1, int8IQ4NLx4x1AVX2}, {3, 1, int8IQ4NLx3x1AVX2}, {2, 1, int8IQ4NLx2x1AVX2}, {1, 1, int8IQ4NLx1x1AVX2}},
		tensor.MXFP4:  {{4, 1, int8MXFP4x4x1AVX2}, {3, 1, int8MXFP4x3x1AVX2}, {2, 1, int8MXFP4x2x1AVX2}, {1, 1, int8MXFP4x1x1AVX2}},
		tensor.F32: {
			{4, 1, floatF32x4x1AVX2}, {2, 2, floatF32x2x2AVX2}, {2, 1, floatF32x2x1AVX2}, {1, 2, floatF32x1x2AVX2},
			{1, 1, floatF32x1x1AVX2},
		},
		tensor.F16: {
			{4, 1, floatF16x4x1AVX2}, {2, 2, floatF16x2x2AVX2}, {2, 1, floatF16x2x1AVX2}, {1, 2, floatF16x1x2AVX2},
			{1, 1, floatF16x1x1AVX2},
		},
		tensor.BF16: {
			{4, 1, floatBF16x4x1AVX2}, {2, 2, floatBF16x2x2AVX2}, {2, 1, floatBF16x2x1AVX2}, {1, 2, floatBF16x1x2AVX2},
			{1, 1, floatBF16x1x1AVX2},
		},
	},
	bf16:       avx2BF16,
	dequantize: dequantizeAVX2,
	quantize:   quantizeAVX2,
	round:      roundAVX2,
	read:       readAVX2,
}

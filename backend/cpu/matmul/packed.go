// Package matmul multiplies activations by weight matrices that keep the bits of the file: out[m][n] = Σ_k w[n][k]·x[m][k].
//
// # Packing
//
// A matrix is stored as panels of 16 output rows, so that a vector of 16 lanes holds one column of a panel and sums stay
// vertical: no horizontal addition, hence no order to choose, on any instruction set. Along k a panel is one forward
// stream: group after group, block after block of 32 columns, each with its scales. Panels follow each other without gaps;
// a kernel walks its share of the matrix with a single pointer. The last panel is filled up with zero rows.
//
// Integer formats group four consecutive k of a row into the four bytes that one VPDPBUSD lane multiplies. Vector v of a
// block (v = 0…7) covers k = 4v…4v+3; its byte 4·row + k%4 belongs to that row. In the file a 4-bit block holds k in the
// low nibble and k+16 in the high one, so line j of a packed block holds vectors j and j+4, and packing moves whole
// 32-bit words. Weights are kept unsigned (Q8_0 as w+128), the multiplier's unsigned operand; the offset comes back as
// a multiple of the activations' sum. File layout.go has the exact extents.
//
// Resident size is the file's size for all formats but Q4_K and Q5_K, whose 6-bit scales become bytes (+2.8 % and +2.3 %),
// plus the padding of the last panel and, for BF16, of an odd last column.
//
// # Arithmetic
//
// Activations are quantised to int8 per 32 (activation.go), rounded to bf16 (bf16.go) or stay float32. The result's bits depend on the row of
// activations and the row of weights alone: never on the number of rows, the tile or the split into calls, nor on the
// instruction set, but that AMX adds bf16 in an order of its own (bf16_blocks.go). TestKernelsMatchOracle holds every kernel to a scalar oracle; TestWrongOrderIsSeen shows that the comparison
// would notice a sum split in two.
package matmul

import (
	"encoding/binary"
	"fmt"

	"sestina/internal/checked"
	"sestina/tensor"
)

// PanelRows is the number of weight rows that are interleaved.
const PanelRows = 16

var le = binary.LittleEndian

// Packed is a matrix of Rows × Cols weights in packed form. The memory is the caller's and must outlive it.
type Packed struct {
	DType      tensor.DType
	Rows, Cols int

	layout     *layout
	panelBytes int
	data       []byte
}

// PackedSize returns the bytes that n rows of k columns take when packed. Formats without a kernel and rows that are not
// whole blocks are errors.
func PackedSize(dt tensor.DType, n, k int) (uint64, error) {
	l := layoutOf(dt)
	if l == nil {
		return 0, fmt.Errorf("no matrix kernel for %v weights; convert the model to one of %v", dt, DTypes())
	}
	if n <= 0 || k <= 0 || !l.scalar() && k%l.groupCols() != 0 {
		return 0, fmt.Errorf("%d x %d weights cannot be %v, which needs rows of whole blocks of %d", n, k, dt, l.groupCols())
	}
	panels := (uint64(n) + PanelRows - 1) / PanelRows
	panel, err := checked.Mul(uint64(l.groups(k)), uint64(l.groupBytes()))
	if err != nil {
		return 0, err
	}
	return checked.Mul(panels, panel)
}

// New returns a matrix over data, whose length must be PackedSize. Its values are those packed in data, or arrive by Pack.
// Lines of 64 bytes are read fastest when data is aligned to 64.
func New(dt tensor.DType, n, k int, data []byte) (*Packed, error) {
	size, err := PackedSize(dt, n, k)
	if err != nil {
		return nil, err
	}
	if uint64(len(data)) != size {
		return nil, fmt.Errorf("%d x %d %v weights need %d bytes packed, not %d", n, k, dt, size, len(data))
	}
	p := &Packed{DType: dt, Rows: n, Cols: k, layout: layoutOf(dt), data: data}
	p.panelBytes = len(data) / p.Panels()
	return p, nil
}

// Panels is the number of panels: Rows / 16, rounded up.
func (p *Packed) Panels() int { return (p.Rows + PanelRows - 1) / PanelRows }

// Bytes is the resident size.
func (p *Packed) Bytes() uint64 { return uint64(len(p.data)) }

// PanelBytes is the resident size of one panel, for callers that split work.
func (p *Packed) PanelBytes() int { return p.panelBytes }

func (p *Packed) rowBytes() int { return p.Cols / p.DType.BlockSize() * p.DType.BlockBytes() }

func (p *Packed) groups() int { return p.layout.groups(p.Cols) }

func (p *Packed) panel(i int) []byte { return p.data[i*p.panelBytes : (i+1)*p.panelBytes] }

// Pack packs whole rows in the file's format, row-major, as the panels from panel0 on. The rows must fill whole panels,
// except at the end of the matrix. Calls for different panels may run at the same time.
func (p *Packed) Pack(panel0 int, raw []byte) {
	rowBytes := p.rowBytes()
	rows, left := len(raw)/rowBytes, p.Rows-panel0*PanelRows
	if panel0 < 0 || len(raw)%rowBytes != 0 || rows > left || (rows%PanelRows != 0 && rows != left) {
		panic(fmt.Sprintf("matmul: %d bytes (%d a row) are not whole panels of a %d x %d matrix from panel %d on",
			len(raw), rowBytes, p.Rows, p.Cols, panel0))
	}
	for ; len(raw) > 0; panel0++ {
		n := min(len(raw), PanelRows*rowBytes)
		p.packPanel(p.panel(panel0), raw[:n], rowBytes)
		raw = raw[n:]
	}
}

// Row writes row i to dst, len(dst) = Cols, with exactly the values of tensor.Decode: the embedding lookup.
func (p *Packed) Row(i int, dst []float32) {
	if i < 0 || i >= p.Rows || len(dst) != p.Cols {
		panic(fmt.Sprintf("matmul: row %d into %d values of a %d x %d matrix", i, len(dst), p.Rows, p.Cols))
	}
	src, lane := p.panel(i/PanelRows), i%PanelRows
	if p.layout.scalar() {
		for k := range dst {
			dst[k] = widen(p.DType, src, k, lane)
		}
		return
	}
	p.eachBlock(src, func(b block, k int) {
		b.decode(lane, dst[k:k+32])
	})
}

package gunzip

import "math/bits"

// Bits that index the tables: longer codes go through a second one.
const (
	litBits  = 11
	distBits = 8
	maxBits  = 15
	maxLit   = 288
	maxDist  = 32
)

// An entry of a table says what a code means:
//
//	bits 0-4    its length in bits
//	bits 8-11   how many extra bits follow it; of a link, bits 8-14 mask the
//	            index within the second table
//	isLiteral … its kind; without any it is a length or a distance
//	bits 16-31  the literal, the least length or distance, or the second table
//
// Zero is no code.
const (
	maskBits  = 0x1f
	isLiteral = 1 << 5
	isEnd     = 1 << 6
	isLink    = 1 << 7
	maskExtra = 0xf
)

// What each symbol means, without its code's length (RFC 1951, section 3.2.5).
var (
	litEntries  [maxLit]uint32
	distEntries [maxDist]uint32
	codeEntries [19]uint32
)

func init() {
	for i := range 256 {
		litEntries[i] = uint32(i)<<16 | isLiteral
	}
	litEntries[256] = isEnd
	base := 3
	for i := 257; i < 285; i++ {
		extra := max(0, (i-261)/4)
		litEntries[i] = uint32(base)<<16 | uint32(extra)<<8
		base += 1 << extra
	}
	litEntries[285] = maxCopy << 16
	base = 1
	for i := range 30 {
		extra := max(0, i/2-1)
		distEntries[i] = uint32(base)<<16 | uint32(extra)<<8
		base += 1 << extra
	}
	for i := range codeEntries {
		codeEntries[i] = uint32(i) << 16
	}
}

// table decodes one Huffman code, its first bits at once.
type table struct {
	entries []uint32
	bits    int
}

func (t *table) init(width, symbols int) {
	t.bits = width
	// Each link serves one symbol at least.
	t.entries = make([]uint32, 1<<width+symbols<<(maxBits-width))
}

// build makes the table of the canonical code with these lengths (RFC 1951,
// section 3.2.2). It reports whether they are a code: a complete one, or of a
// single symbol with one bit, or of none, which zlib takes too.
func (t *table) build(lens []uint8, meaning []uint32) bool {
	var count [maxBits + 1]int
	longest := 0
	for _, n := range lens {
		count[n]++
		longest = max(longest, int(n))
	}
	count[0] = 0
	clear(t.entries[:1<<t.bits])
	if longest == 0 {
		return true
	}
	var next [maxBits + 1]uint
	code := uint(0)
	for n := 1; n <= longest; n++ {
		code <<= 1
		next[n] = code
		code += uint(count[n])
	}
	if code != 1<<longest && !(code == 1 && longest == 1) {
		return false
	}
	free := 1 << t.bits // where the next second table goes
	second := max(0, longest-t.bits)
	for sym, n := range lens {
		if n == 0 {
			continue
		}
		// Codes come with their first bit lowest.
		at := int(bits.Reverse16(uint16(next[n])) >> (16 - n))
		next[n]++
		e := meaning[sym]
		if e == 0 && len(meaning) != len(codeEntries) {
			continue // a symbol that never occurs, left as no code
		}
		e |= uint32(n)
		if int(n) <= t.bits {
			for ; at < 1<<t.bits; at += 1 << n {
				t.entries[at] = e
			}
			continue
		}
		link := &t.entries[at&(1<<t.bits-1)]
		if *link == 0 {
			*link = uint32(free)<<16 | uint32(1<<second-1)<<8 | isLink
			clear(t.entries[free : free+1<<second])
			free += 1 << second
		}
		sub := t.entries[*link>>16:][:1<<second]
		for at >>= t.bits; at < len(sub); at += 1 << (int(n) - t.bits) {
			sub[at] = e
		}
	}
	return true
}

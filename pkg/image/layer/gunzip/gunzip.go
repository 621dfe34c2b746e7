// Package gunzip decompresses gzip (RFC 1952) as fast as Go can, since that is
// most of the work of unpacking an image. It differs from other readers in how
// it takes its input: eight bytes at a time into a 64-bit register, instead of
// byte by byte.
package gunzip

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
)

// ErrCorrupt says that the input is no gzip stream, or a damaged one. One that
// is cut off is io.ErrUnexpectedEOF.
var ErrCorrupt = errors.New("corrupt gzip stream")

const (
	window  = 32 << 10 // how far back a match may lie (RFC 1951, section 2)
	maxCopy = 258      // the longest match
	slack   = maxCopy + 8
	outSize = window + 256<<10
	inSize  = 128 << 10
	// padding is read beyond the end of the input, as zeros, so that the
	// decoder may always take eight bytes; whether it used any shows later.
	padding = 16
)

// Reader decompresses one gzip stream, of one member or several.
type Reader struct {
	src io.Reader
	err error // sticky; io.EOF at the end

	in       []byte // in[pos:end] has come and is not used
	pos, end int
	eof      bool // src has no more: in[end:end+padding] is zero

	// bits are the next ones of the input, the first lowest; count says how
	// many. Above them may be more, which are read again.
	bits  uint64
	count uint

	out    []byte
	rp, wp int // out[rp:wp] is decompressed and not read
	base   int // where in out the member begins, or the window

	crc, size uint32 // of the member so far
	inBlock   bool   // within a compressed block
	stored    int    // bytes left of a stored block
	last      bool   // no block follows
	members   int

	lit  table
	dist table
}

// NewReader reads r, which need not be buffered. It has read the header.
func NewReader(r io.Reader) (*Reader, error) {
	z := &Reader{src: r, in: make([]byte, inSize+padding), out: make([]byte, outSize+slack)}
	z.lit.init(litBits, maxLit)
	z.dist.init(distBits, maxDist)
	if err := z.header(); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return z, nil
}

// Read implements io.Reader.
func (z *Reader) Read(p []byte) (int, error) {
	for z.rp == z.wp {
		if z.err != nil {
			return 0, z.err
		}
		z.slide()
		z.err = z.fill()
		got := z.out[z.rp:z.wp]
		z.crc = crc32.Update(z.crc, crc32.IEEETable, got)
		z.size += uint32(len(got))
		if z.err == errMember {
			z.err = z.trailer()
		}
	}
	n := copy(p, z.out[z.rp:z.wp])
	z.rp += n
	return n, nil
}

// Close does nothing.
func (z *Reader) Close() error { return nil }

// errMember is fill's word for the end of a member's last block.
var errMember = errors.New("end of member")

// slide makes room in out, and keeps the window.
func (z *Reader) slide() {
	if z.wp < outSize-window {
		return
	}
	shift := z.wp - window
	copy(z.out, z.out[shift:z.wp])
	z.wp, z.rp = window, window
	z.base = max(0, z.base-shift)
}

// fill decompresses until out is full, or to the end of the member.
func (z *Reader) fill() error {
	for z.wp < outSize {
		var err error
		switch {
		case z.inBlock:
			err = z.huffman()
		case z.stored > 0:
			err = z.copyStored()
		case z.last:
			err = errMember
		default:
			err = z.block()
		}
		if z.overrun() {
			// What was decoded last is made of padding.
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// overrun reports whether bits were used that are not in the input.
func (z *Reader) overrun() bool {
	return z.eof && z.pos-int(z.count/8) > z.end
}

// more moves what is left of the input to the front and reads after it. At
// the end of the input there is the padding, and then io.ErrUnexpectedEOF.
func (z *Reader) more() error {
	if z.eof {
		return io.ErrUnexpectedEOF
	}
	held := int(z.count / 8) // bytes that align may give back
	z.end = copy(z.in, z.in[z.pos-held:z.end])
	z.pos = held
	for range 100 { // as patient as package bufio
		n, err := z.src.Read(z.in[z.end:inSize])
		z.end += n
		switch {
		case errors.Is(err, io.EOF):
			z.eof = true
			clear(z.in[z.end : z.end+padding])
			return nil
		case err != nil:
			return err
		case n > 0:
			return nil
		}
	}
	return io.ErrNoProgress
}

// limit is how far in may be read.
func (z *Reader) limit() int {
	if z.eof {
		return z.end + padding
	}
	return z.end
}

// need makes sure that count is at least n, up to 56.
func (z *Reader) need(n uint) error {
	for z.count < n {
		if z.pos+8 > z.limit() {
			if err := z.more(); err != nil {
				return err
			}
			continue
		}
		z.bits |= binary.LittleEndian.Uint64(z.in[z.pos:]) << z.count
		z.pos += int(63-z.count) >> 3
		z.count |= 56
	}
	return nil
}

// take returns the next n bits, which need has seen to.
func (z *Reader) take(n uint) uint {
	v := uint(z.bits) & (1<<n - 1)
	z.bits >>= n
	z.count -= n
	return v
}

// align goes to the next whole byte, and gives back the bytes in bits.
func (z *Reader) align() {
	z.pos -= int(z.count / 8)
	z.bits, z.count = 0, 0
}

// readByte is for headers, where no bits are held.
func (z *Reader) readByte() (byte, error) {
	for z.pos == z.end {
		if z.eof {
			return 0, io.EOF
		}
		if err := z.more(); err != nil {
			return 0, err
		}
	}
	z.pos++
	return z.in[z.pos-1], nil
}

// Flags of a member's header (RFC 1952, section 2.3.1).
const (
	flagHeaderCRC = 1 << 1
	flagExtra     = 1 << 2
	flagName      = 1 << 3
	flagComment   = 1 << 4
)

// header reads a member's. Before the first byte io.EOF means that there is
// no member.
func (z *Reader) header() error {
	var head []byte
	next := func() (byte, error) {
		b, err := z.readByte()
		if errors.Is(err, io.EOF) && len(head) > 0 {
			err = io.ErrUnexpectedEOF
		}
		head = append(head, b)
		return b, err
	}
	for len(head) < 10 {
		if _, err := next(); err != nil {
			return err
		}
	}
	if !bytes.HasPrefix(head, []byte{0x1f, 0x8b, 8}) {
		return ErrCorrupt
	}
	flags := head[3]
	if flags&flagExtra != 0 {
		lo, err := next()
		if err != nil {
			return err
		}
		hi, err := next()
		if err != nil {
			return err
		}
		for range int(lo) | int(hi)<<8 {
			if _, err := next(); err != nil {
				return err
			}
		}
	}
	for _, flag := range []byte{flagName, flagComment} {
		for limit := len(head) + 64<<10; flags&flag != 0; {
			b, err := next()
			if err != nil {
				return err
			}
			if b == 0 {
				break
			}
			if len(head) > limit {
				return ErrCorrupt
			}
		}
	}
	if flags&flagHeaderCRC != 0 {
		want := uint16(crc32.ChecksumIEEE(head))
		lo, err := next()
		if err != nil {
			return err
		}
		hi, err := next()
		if err != nil {
			return err
		}
		if want != uint16(lo)|uint16(hi)<<8 {
			return ErrCorrupt
		}
	}
	z.crc, z.size, z.last = 0, 0, false
	z.base = z.wp
	z.members++
	return nil
}

// trailer checks a member's, and looks for another member.
func (z *Reader) trailer() error {
	z.align()
	var sums [8]byte
	for i := range sums {
		b, err := z.readByte()
		if errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		sums[i] = b
	}
	if binary.LittleEndian.Uint32(sums[:]) != z.crc || binary.LittleEndian.Uint32(sums[4:]) != z.size {
		return ErrCorrupt
	}
	return z.header() // io.EOF when there is none
}

package gunzip

import (
	"encoding/binary"
	"io"
)

// block reads the header of the next block (RFC 1951, section 3.2.3).
func (z *Reader) block() error {
	if err := z.need(3); err != nil {
		return err
	}
	z.last = z.take(1) == 1
	switch z.take(2) {
	case 0:
		return z.storedHeader()
	case 1:
		z.fixedCodes()
		z.inBlock = true
		return nil
	case 2:
		err := z.dynamicCodes()
		z.inBlock = err == nil
		return err
	}
	return ErrCorrupt
}

func (z *Reader) storedHeader() error {
	z.align()
	if z.overrun() {
		return io.ErrUnexpectedEOF
	}
	if err := z.need(32); err != nil {
		return err
	}
	size := z.take(16)
	if z.take(16) != size^0xffff {
		return ErrCorrupt
	}
	z.align()
	z.stored = int(size)
	return nil
}

// copyStored copies what has come of a stored block.
func (z *Reader) copyStored() error {
	if z.pos >= z.end {
		if err := z.more(); err != nil {
			return err
		}
		if z.pos >= z.end {
			return io.ErrUnexpectedEOF
		}
	}
	n := min(z.stored, z.end-z.pos, outSize-z.wp)
	copy(z.out[z.wp:], z.in[z.pos:z.pos+n])
	z.wp, z.pos, z.stored = z.wp+n, z.pos+n, z.stored-n
	return nil
}

// fixedCodes are those of RFC 1951, section 3.2.6.
func (z *Reader) fixedCodes() {
	var lens [288]uint8
	for i := range lens {
		switch {
		case i < 144:
			lens[i] = 8
		case i < 256:
			lens[i] = 9
		case i < 280:
			lens[i] = 7
		default:
			lens[i] = 8
		}
	}
	z.lit.build(lens[:], litEntries[:])
	var dist [32]uint8
	for i := range dist {
		dist[i] = 5
	}
	z.dist.build(dist[:], distEntries[:])
}

// codeOrder is the order of the code lengths' own lengths (RFC 1951, section
// 3.2.7).
var codeOrder = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// dynamicCodes reads the codes that a block brings (RFC 1951, section 3.2.7).
func (z *Reader) dynamicCodes() error {
	if err := z.need(14); err != nil {
		return err
	}
	lits, dists, codes := int(z.take(5))+257, int(z.take(5))+1, int(z.take(4))+4
	if lits > 286 || dists > 30 {
		return ErrCorrupt
	}
	var lens [19]uint8
	for _, at := range codeOrder[:codes] {
		if err := z.need(3); err != nil {
			return err
		}
		lens[at] = uint8(z.take(3))
	}
	// The table for distances is free until those are known.
	if !z.dist.build(lens[:], codeEntries[:]) {
		return ErrCorrupt
	}
	var all [286 + 30]uint8
	for i := 0; i < lits+dists; {
		if err := z.need(7 + 7); err != nil {
			return err
		}
		e := z.dist.entries[z.bits&(1<<distBits-1)]
		if e == 0 {
			return ErrCorrupt
		}
		z.take(uint(e & maskBits))
		sym := e >> 16
		if sym < 16 {
			all[i] = uint8(sym)
			i++
			continue
		}
		var repeat int
		var value uint8
		switch sym {
		case 16:
			if i == 0 {
				return ErrCorrupt
			}
			repeat, value = 3+int(z.take(2)), all[i-1]
		case 17:
			repeat = 3 + int(z.take(3))
		default:
			repeat = 11 + int(z.take(7))
		}
		if i+repeat > lits+dists {
			return ErrCorrupt
		}
		for range repeat {
			all[i] = value
			i++
		}
	}
	if !z.lit.build(all[:lits], litEntries[:]) || !z.dist.build(all[lits:lits+dists], distEntries[:]) {
		return ErrCorrupt
	}
	return nil
}

// huffman decompresses the block until out is full or the block ends. It
// keeps the reader's state in local variables, for the compiler to keep them
// in registers.
func (z *Reader) huffman() error {
	var (
		in         = z.in
		pos, limit = z.pos, z.limit()
		bits       = z.bits
		count      = z.count
		out        = z.out
		wp, base   = z.wp, z.base
		lit, lits  = (*[1 << litBits]uint32)(z.lit.entries), z.lit.entries
		dist       = (*[1 << distBits]uint32)(z.dist.entries)
		dists      = z.dist.entries
	)
	var err error
	for wp < outSize {
		// 56 bits are enough for a match: 15 + 5 of its length, 15 + 13 of its
		// distance.
		if pos+8 > limit {
			z.pos, z.bits, z.count = pos, bits, count
			if err = z.refill(); err != nil {
				break
			}
			pos, limit, bits, count = z.pos, z.limit(), z.bits, z.count
		} else {
			bits |= binary.LittleEndian.Uint64(in[pos:]) << (count & 63)
			pos += int(63-count) >> 3
			count |= 56
		}
		e := lit[bits&(1<<litBits-1)]
		if e&isLiteral != 0 {
			bits >>= e & maskBits
			count -= uint(e & maskBits)
			out[wp] = byte(e >> 16)
			wp++
			// Literals come in a row, and have at most litBits each here.
			if e = lit[bits&(1<<litBits-1)]; e&isLiteral == 0 {
				continue
			}
			bits >>= e & maskBits
			count -= uint(e & maskBits)
			out[wp] = byte(e >> 16)
			wp++
			if e = lit[bits&(1<<litBits-1)]; e&isLiteral == 0 {
				continue
			}
			bits >>= e & maskBits
			count -= uint(e & maskBits)
			out[wp] = byte(e >> 16)
			wp++
			continue
		}
		if e&isLink != 0 {
			e = lits[e>>16+uint32(bits>>litBits)&(e>>8&0x7f)]
			if e&isLiteral != 0 {
				bits >>= e & maskBits
				count -= uint(e & maskBits)
				out[wp] = byte(e >> 16)
				wp++
				continue
			}
		}
		if e&isEnd != 0 {
			bits >>= e & maskBits
			count -= uint(e & maskBits)
			z.inBlock = false
			break
		}
		if e == 0 {
			err = ErrCorrupt
			break
		}
		code, extra := e&maskBits, e>>8&maskExtra
		length := int(e>>16) + int(bits>>code&(1<<extra-1))
		bits >>= (code + extra) & 63
		count -= uint(code + extra)

		e = dist[bits&(1<<distBits-1)]
		if e&isLink != 0 {
			e = dists[e>>16+uint32(bits>>distBits)&(e>>8&0x7f)]
		}
		if e == 0 {
			err = ErrCorrupt
			break
		}
		code, extra = e&maskBits, e>>8&maskExtra
		distance := int(e>>16) + int(bits>>code&(1<<extra-1))
		bits >>= (code + extra) & 63
		count -= uint(code + extra)

		from := wp - distance
		if from < base {
			err = ErrCorrupt
			break
		}
		if distance >= 8 && length <= 16 { // as most are
			binary.LittleEndian.PutUint64(out[wp:], binary.LittleEndian.Uint64(out[from:]))
			binary.LittleEndian.PutUint64(out[wp+8:], binary.LittleEndian.Uint64(out[from+8:]))
			wp += length
			continue
		}
		wp = match(out, wp, from, length)
	}
	z.pos, z.bits, z.count, z.wp = pos, bits, count, wp
	return err
}

// refill is huffman's way to bits when in has run low.
func (z *Reader) refill() error {
	if z.overrun() {
		return io.ErrUnexpectedEOF
	}
	if z.eof && z.pos+8 > z.limit() {
		// The rest is padding: what is in bits decides whether the block ends.
		if z.count >= 48 {
			return nil
		}
		return io.ErrUnexpectedEOF
	}
	return z.need(48)
}

// match copies length bytes from further back, and returns the new end. out
// has slack: eight bytes are copied at a time.
func match(out []byte, wp, from, length int) int {
	end := wp + length
	switch distance := wp - from; {
	case distance >= 8 && length <= 64:
		src, dst := out[from:], out[wp:]
		for i := 0; i < length; i += 8 {
			binary.LittleEndian.PutUint64(dst[i:], binary.LittleEndian.Uint64(src[i:]))
		}
	case distance >= length:
		copy(out[wp:end], out[from:])
	case distance == 1:
		b := out[from]
		for i := range out[wp:end] {
			out[wp+i] = b
		}
	default:
		// The copy repeats itself: each step doubles what can be copied.
		for wp < end {
			wp += copy(out[wp:end], out[from:wp])
		}
	}
	return end
}

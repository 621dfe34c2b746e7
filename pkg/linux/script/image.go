package script

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// image assembles the script as a static ELF executable: one page of headers
// and interpreter, the operations, the data. The first operation is made to
// be the mapping of the results file, from descriptor resultsFD.
func (s *Script) image(resultsFD int) ([]byte, error) {
	if len(interpreter) == 0 {
		return nil, fmt.Errorf("no interpreter for this processor architecture")
	}
	ops, err := s.encode(resultsFD)
	if err != nil {
		return nil, err
	}
	opsAt := uint64(pageSize)
	dataAt := roundUp(opsAt + uint64(len(ops)))
	size := dataAt + uint64(len(s.data))
	b := make([]byte, 0, size)
	b = appendHeaders(b, []segment{
		{flags: pfR | pfX, addr: textBase, offset: 0, size: uint64(headerSize(4) + len(interpreter))},
		{flags: pfR | pfW, addr: opBase, offset: opsAt, size: uint64(len(ops))},
		{flags: pfR | pfW, addr: dataBase, offset: dataAt, size: uint64(len(s.data))},
	})
	b = append(b, interpreter...)
	b = append(b[:opsAt], ops...) // capacity is size, and make has zeroed it
	b = append(b[:dataAt], s.data...)
	return b, nil
}

// ELF's constants; see elf(5).
const (
	pfX, pfW, pfR = 1, 2, 4
	ptLoad        = 1
	ptGNUStack    = 0x6474e551
)

type segment struct {
	flags              uint32
	addr, offset, size uint64
}

func headerSize(segments int) int { return 64 + 56*segments }

// appendHeaders writes an ELF header whose entry is the first byte after the
// program headers, one PT_LOAD for each segment, and a stack that is not
// executable.
func appendHeaders(b []byte, segments []segment) []byte {
	le := binary.LittleEndian
	n := len(segments) + 1
	b = append(b, 0x7f, 'E', 'L', 'F', 2 /* 64 bit */, 1 /* little endian */, 1, 0)
	b = append(b, make([]byte, 8)...)
	b = le.AppendUint16(b, 2) // ET_EXEC
	b = le.AppendUint16(b, elfMachine)
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, uint64(textBase+headerSize(n)))
	b = le.AppendUint64(b, 64) // program headers follow
	b = le.AppendUint64(b, 0)  // no sections
	b = le.AppendUint32(b, 0)
	b = le.AppendUint16(b, 64)
	b = le.AppendUint16(b, 56)
	b = le.AppendUint16(b, uint16(n)) //nolint:gosec // four
	b = append(b, 0, 0, 0, 0, 0, 0)
	for _, s := range append(segments, segment{flags: pfR | pfW}) {
		kind := uint32(ptLoad)
		if s.addr == 0 {
			kind = ptGNUStack
		}
		b = le.AppendUint32(b, kind)
		b = le.AppendUint32(b, s.flags)
		b = le.AppendUint64(b, s.offset)
		b = le.AppendUint64(b, s.addr)
		b = le.AppendUint64(b, s.addr)
		b = le.AppendUint64(b, s.size)
		b = le.AppendUint64(b, s.size)
		b = le.AppendUint64(b, pageSize)
	}
	return b
}

func roundUp(n uint64) uint64 { return (n + pageSize - 1) &^ (pageSize - 1) }

// encode lays the operations out as the interpreter reads them, after one
// that maps the results. Operation i of the script is operation i+1 here.
func (s *Script) encode(resultsFD int) ([]byte, error) {
	if len(s.ops) == 0 {
		return nil, fmt.Errorf("empty script")
	}
	le := binary.LittleEndian
	at := func(i int) uint64 { return opBase + uint64(i+1)*opSize } //nolint:gosec // i >= 0
	b := make([]byte, 0, (len(s.ops)+1)*opSize)
	b = appendMapResults(b, resultsFD, ResultsSize(len(s.ops)), at(0))
	for i := range s.ops {
		op := &s.ops[i]
		if len(op.Args) > 6 {
			return nil, fmt.Errorf("operation %d (%s) has %d arguments", i, op.Event.Op, len(op.Args))
		}
		var mask uint64
		if s.timed && s.explained(op) {
			mask |= timed
		}
		b = le.AppendUint64(b, uint64(op.Nr))
		for j := range 6 {
			var a Arg
			if j < len(op.Args) {
				a = op.Args[j]
			}
			if a.variable {
				mask |= 1 << j
			}
			b = le.AppendUint64(b, a.v)
		}
		ok, err := uint64(0), uint64(0)
		if op.OK != 0 {
			ok = at(s.labels[op.OK])
		} else if i+1 < len(s.ops) {
			ok = at(i + 1)
		}
		if op.Err != 0 {
			err = at(s.labels[op.Err])
		}
		b = le.AppendUint64(b, ok)
		b = le.AppendUint64(b, err)
		b = le.AppendUint64(b, uint64(op.Accept))
		b = le.AppendUint64(b, op.Out.addr)
		b = le.AppendUint64(b, resultBase+uint64(resultOffset(i))) //nolint:gosec // i >= 0
		b = le.AppendUint64(b, mask)
	}
	for l, i := range s.labels {
		if l != 0 && (i < 0 || i >= len(s.ops)) {
			return nil, fmt.Errorf("label %d is not placed before an operation", l)
		}
	}
	return b, nil
}

// appendMapResults encodes the operation that maps the results file; it has no
// result of its own, there being nowhere to put it.
func appendMapResults(b []byte, fd, size int, next uint64) []byte {
	for _, w := range [opWords]uint64{
		unix.SYS_MMAP, resultBase, uint64(size), unix.PROT_READ | unix.PROT_WRITE, //nolint:gosec // small
		unix.MAP_SHARED | unix.MAP_FIXED, uint64(fd), 0, //nolint:gosec // small
		next,
	} {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return b
}

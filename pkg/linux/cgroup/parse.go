package cgroup

import (
	"bytes"
	"iter"
	"math"
)

// The formats of cgroup files have names in the kernel's documentation: "flat
// keyed" is a line "KEY VALUE" for each key, "nested keyed" a line
// "KEY SUBKEY=VALUE SUBKEY=VALUE…". Nothing here allocates.

// flatKeyed yields the lines of a flat keyed file.
func flatKeyed(b []byte) iter.Seq2[[]byte, uint64] {
	return func(yield func([]byte, uint64) bool) {
		for len(b) > 0 {
			var line []byte
			line, b, _ = bytes.Cut(b, []byte("\n"))
			key, number, ok := bytes.Cut(line, []byte(" "))
			if ok && !yield(key, parseNumber(number)) {
				return
			}
		}
	}
}

// subkeys yields the SUBKEY=VALUE pairs of a line of a nested keyed file.
func subkeys(b []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {
		for len(b) > 0 {
			var pair []byte
			pair, b, _ = bytes.Cut(b, []byte(" "))
			key, value, ok := bytes.Cut(pair, []byte("="))
			if ok && !yield(key, value) {
				return
			}
		}
	}
}

// parseNumber reads the decimal digits that b begins with. "max", which is how
// the kernel writes that there is no limit, is math.MaxUint64.
func parseNumber(b []byte) uint64 {
	if bytes.HasPrefix(b, []byte("max")) {
		return math.MaxUint64
	}
	var n uint64
	for _, digit := range b {
		if digit < '0' || digit > '9' {
			break
		}
		n = n*10 + uint64(digit-'0')
	}
	return n
}

// parsePercent reads a number with two decimals, such as the averages of a
// pressure file.
func parsePercent(b []byte) float64 {
	whole, hundredths, _ := bytes.Cut(b, []byte("."))
	return float64(parseNumber(whole)) + float64(parseNumber(hundredths))/100
}

// number reads a file that holds one number, or "max".
func (c *Cgroup) number(file string) (uint64, error) {
	var buf [32]byte
	b, err := c.read(file, buf[:])
	return parseNumber(b), err
}

// keyed reads one value of a flat keyed file, zero if the key is missing.
func (c *Cgroup) keyed(file, key string) (uint64, error) {
	var buf [512]byte
	b, err := c.read(file, buf[:])
	if err != nil {
		return 0, err
	}
	return lookup(b, key), nil
}

func lookup(b []byte, key string) uint64 {
	for k, n := range flatKeyed(b) {
		if string(k) == key {
			return n
		}
	}
	return 0
}

package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// size is a flag of bytes: 1048576, 1024k, 1m.
type size int64

func (s *size) String() string { return strconv.FormatInt(int64(*s), 10) }

func (s *size) Set(text string) error {
	digits := strings.ToLower(text)
	digits = strings.TrimSuffix(strings.TrimSuffix(digits, "b"), "i")
	shift := 0
	for i, unit := range []string{"k", "m", "g"} {
		if d, ok := strings.CutSuffix(digits, unit); ok {
			digits, shift = d, 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64>>shift {
		return fmt.Errorf("%q is no size, such as 64m", text)
	}
	*s = size(n << shift)
	return nil
}

// human writes bytes with one decimal, in the unit that fits.
func human(n float64) string {
	for _, unit := range []string{"B", "KiB", "MiB"} {
		if n < 1024 {
			return fmt.Sprintf("%.1f %s", n, unit)
		}
		n /= 1024
	}
	return fmt.Sprintf("%.1f GiB", n)
}

package script

import _ "embed" // the interpreter

//go:generate sh -c "aarch64-linux-gnu-as -o interp/arm64.o interp/arm64.S && aarch64-linux-gnu-objcopy -O binary -j .text interp/arm64.o interp/arm64.bin && rm interp/arm64.o"

//go:embed interp/arm64.bin
var interpreter string

const (
	elfMachine = 183 // EM_AARCH64
	// The largest page that the kernel may have been built for.
	pageSize = 64 << 10
)

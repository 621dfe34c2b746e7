package script

import _ "embed" // the interpreter

//go:generate sh -c "as -o interp/amd64.o interp/amd64.S && objcopy -O binary -j .text interp/amd64.o interp/amd64.bin && rm interp/amd64.o"

//go:embed interp/amd64.bin
var interpreter string

const (
	elfMachine = 62 // EM_X86_64
	pageSize   = 4096
)

package build_test

// victim is a process that builds until it is killed.
func victim([]string) int { return 1 }

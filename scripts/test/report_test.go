package main

import (
	"errors"
	"os"
	"strings"
	"testing"
)

// TestReport feeds the events of two places and compares what is printed.
func TestReport(t *testing.T) {
	const host = `{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestGood"}
{"Action":"output","Package":"p","Test":"TestGood","Output":"    good_test.go:5: measured: 3 images: 1.2 s\n"}
{"Action":"pass","Package":"p","Test":"TestGood"}
{"Action":"run","Package":"p","Test":"TestLimit"}
{"Action":"output","Package":"p","Test":"TestLimit","Output":"=== RUN   TestLimit\n"}
{"Action":"output","Package":"p","Test":"TestLimit","Output":"    limit_test.go:7: no memory controller\n"}
{"Action":"output","Package":"p","Test":"TestLimit","Output":"--- SKIP: TestLimit (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestLimit"}
{"Action":"output","Package":"p","Test":"TestTime","Output":"    time_test.go:9: no time namespaces: CONFIG_TIME_NS\n"}
{"Action":"skip","Package":"p","Test":"TestTime"}
{"Action":"pass","Package":"p","Elapsed":1.5}
{"Action":"run","Package":"q","Test":"TestHang"}
{"Action":"output","Package":"q","Test":"TestHang","Output":"panic: test timed out\n"}
{"Action":"output","Package":"q","Output":"exit status 2\n"}
{"Action":"fail","Package":"q","Elapsed":2}
{"Action":"output","Package":"r","Output":"TestMain gave up\n"}
{"Action":"fail","Package":"r","Elapsed":3}
{"Action":"build-output","ImportPath":"s","Output":"s.go:1: syntax error\n"}
{"Action":"build-fail","ImportPath":"s"}
`
	const vm = `{"Action":"pass","Package":"p","Test":"TestLimit"}
{"Action":"output","Package":"p","Test":"TestGood","Output":"    good_test.go:3: not here\n"}
{"Action":"fail","Package":"p","Test":"TestGood"}
{"Action":"fail","Package":"p"}
`
	const want = `ok    host  p  1.5 s
FAIL  host  q TestHang did not end
      panic: test timed out
FAIL  host  q
FAIL  host  r
      TestMain gave up
s.go:1: syntax error
FAIL  host  s does not build
FAIL  vm    p TestGood
          good_test.go:3: not here
FAIL  vm    p
skipped everywhere:
  p TestTime: no time namespaces: CONFIG_TIME_NS
measured:
  host  3 images: 1.2 s
failed:
  p TestGood
          good_test.go:3: not here
  q TestHang
      panic: test timed out
1 passed, 4 failed, 1 skipped
`
	var out strings.Builder
	r := newReport(&out)
	for _, stream := range []struct{ where, events string }{{"host", host}, {"vm", vm}} {
		if failed, err := r.read(stream.where, strings.NewReader(stream.events)); !failed || err != nil {
			t.Errorf("%s: failed %v, error %v", stream.where, failed, err)
		}
	}
	if r.summary() {
		t.Error("the summary says that all is well")
	}
	if out.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", out.String(), want)
	}
}

// TestFailure: of what a test prints, the summary repeats what is not only
// logged.
func TestFailure(t *testing.T) {
	t.Chdir(t.TempDir())
	const source = "package p\n\tt.Log(1)\n\ts.t.Logf(2)\n\tt.Errorf(3)\n\thelp(4)\n"
	if err := errors.Join(os.Mkdir("p", 0o755), os.WriteFile("p/x_test.go", []byte(source), 0o644)); err != nil {
		t.Fatal(err)
	}
	const output = `=== RUN   TestX
    x_test.go:2: a step
    x_test.go:3: another,
        with a second line
    x_test.go:4: it failed,
        as one sees
    logger.go:146: it stops
    x_test.go:5: a helper failed
    other.go:7: one elsewhere
    x_test.go:2: the last step
panic: oh
--- FAIL: TestX (0.00s)
`
	const want = `    x_test.go:4: it failed,
        as one sees
    x_test.go:5: a helper failed
    other.go:7: one elsewhere
panic: oh
`
	if got := failure("p", output); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

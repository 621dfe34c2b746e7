package raw

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"math/big"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/sandboxlabs/sandbox/pkg/pattern"
)

// newID returns a container ID: 64 hex digits, as docker's.
func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails, says its documentation
	return hex.EncodeToString(b[:])
}

// namePattern is docker's.
var namePattern = pattern.New(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)

func checkName(name string) error {
	if name != "" && !namePattern.MatchString(name) {
		return fmt.Errorf("container name %q: use letters, digits and _ . -, beginning with a letter or digit: %w", name, errdefs.ErrInvalidArgument)
	}
	return nil
}

// newName invents a name that is not taken.
func newName(taken func(string) bool) string {
	for try := 0; ; try++ {
		name := pick(adjectives) + "_" + pick(nouns)
		if try > 3 {
			name += strconv.Itoa(try)
		}
		if !taken(name) {
			return name
		}
	}
}

func pick(words []string) string {
	n, err := rand.Int(rand.Reader, big.NewInt(int64(len(words))))
	if err != nil {
		return words[0]
	}
	return words[n.Int64()]
}

var adjectives = []string{
	"agile", "amber", "brave", "breezy", "bright", "brisk", "calm", "candid", "cheerful", "clever",
	"cosy", "crisp", "curious", "dapper", "daring", "eager", "early", "earnest", "fair", "fearless",
	"fluent", "frank", "fresh", "gentle", "glad", "golden", "graceful", "handy", "happy", "honest",
	"humble", "jolly", "keen", "kind", "lively", "lucid", "lucky", "mellow", "merry", "modest",
	"neat", "nimble", "patient", "placid", "plucky", "polite", "proud", "quick", "quiet", "ready",
	"rustic", "serene", "sharp", "silent", "sincere", "sleek", "smart", "steady", "sunny", "swift",
	"tidy", "tranquil", "upbeat", "vivid", "warm", "witty", "zesty",
}

var nouns = []string{
	"acorn", "anchor", "badger", "beacon", "birch", "bison", "brook", "canyon", "cedar", "comet",
	"condor", "coral", "crane", "delta", "dolphin", "dune", "ember", "falcon", "fern", "finch",
	"fjord", "fox", "gecko", "glacier", "grove", "harbour", "hazel", "heron", "ibex", "island",
	"jaguar", "juniper", "kestrel", "lagoon", "lantern", "lark", "linden", "lynx", "maple", "marten",
	"meadow", "meteor", "moose", "nebula", "oak", "orchid", "osprey", "otter", "owl", "panda",
	"pebble", "pine", "puffin", "quail", "raven", "reef", "river", "robin", "salmon", "sparrow",
	"spruce", "summit", "thistle", "tiger", "tulip", "valley", "walrus", "willow", "wren", "yak",
}

package recipe

import (
	"path"
	"slices"
	"strconv"
	"strings"
)

// source is a name that a Dockerfile takes files from.
type source struct {
	name string
	line int
	base bool // it is FROM's
}

// usage is what lint and the order of builds need of a Dockerfile. It is read
// far less strictly than a build reads it, which has the last word.
type usage struct {
	sources []source       // in order, without the Dockerfile's own stages
	caches  map[string]int // IDs of cache mounts, with their lines
	args    map[string]int // ARG names, with their lines
	last    int            // line
	network int            // line of the first instruction that may need the network; 0 for none
}

// scan reads a Dockerfile. args are the values that ARGs have in FROM.
func scan(dockerfile []byte, args map[string]string) usage {
	u := usage{caches: map[string]int{}, args: map[string]int{}}
	stages := map[string]bool{}
	values := map[string]string{}
	add := func(name string, line int, base bool) {
		name = expand(name, values)
		_, err := strconv.Atoi(name)
		if stages[strings.ToLower(name)] || name == "" || name == "scratch" || err == nil && !base {
			return
		}
		u.sources = append(u.sources, source{name, line, base})
	}
	for _, l := range logicalLines(string(dockerfile)) {
		u.last = l.number
		words := strings.Fields(l.text)
		instruction := strings.ToUpper(words[0])
		if instruction == "ONBUILD" && len(words) > 1 {
			words = words[1:]
			instruction = strings.ToUpper(words[0])
		}
		words = words[1:]
		var flags []string
		for len(words) > 0 && strings.HasPrefix(words[0], "--") {
			flags = append(flags, words[0])
			words = words[1:]
		}
		switch instruction {
		case "ARG":
			for _, w := range words {
				name, value, _ := strings.Cut(w, "=")
				u.args[name] = l.number
				if given, ok := args[name]; ok {
					value = given
				}
				values[name] = strings.Trim(value, `"'`)
			}
		case "FROM":
			if len(words) == 0 {
				continue
			}
			add(words[0], l.number, true)
			if len(words) == 3 && strings.EqualFold(words[1], "as") {
				stages[strings.ToLower(words[2])] = true
			}
		case "COPY", "ADD":
			if len(words) > 0 && (strings.Contains(words[0], "://") || strings.HasPrefix(words[0], "git@")) {
				u.needsNetwork(l.number)
			}
			for _, f := range flags {
				if from, ok := strings.CutPrefix(f, "--from="); ok {
					add(from, l.number, false)
				}
			}
		case "RUN":
			if !slices.Contains(flags, "--network=none") {
				u.needsNetwork(l.number)
			}
			for _, f := range flags {
				mount, ok := strings.CutPrefix(f, "--mount=")
				if !ok {
					continue
				}
				o := mountOptions(mount)
				add(o["from"], l.number, false)
				if o["type"] == "cache" {
					id := o["id"]
					if id == "" {
						id = path.Clean(o["target"])
					}
					u.caches[id] = l.number
				}
			}
		}
	}
	return u
}

func (u *usage) needsNetwork(line int) {
	if u.network == 0 {
		u.network = line
	}
}

func mountOptions(mount string) map[string]string {
	o := map[string]string{}
	for pair := range strings.SplitSeq(mount, ",") {
		key, value, _ := strings.Cut(pair, "=")
		switch key {
		case "dst", "destination":
			key = "target"
		}
		o[key] = strings.Trim(value, `"'`)
	}
	return o
}

// expand replaces $NAME and ${NAME} by their values; what is more elaborate
// than that stays.
func expand(s string, values map[string]string) string {
	if !strings.Contains(s, "$") {
		return s
	}
	for name, value := range values {
		s = strings.ReplaceAll(s, "${"+name+"}", value)
		if s == "$"+name {
			s = value
		}
	}
	return s
}

type logicalLine struct {
	text   string
	number int // of its first line
}

// logicalLines joins continued lines and leaves out comments.
func logicalLines(s string) (out []logicalLine) {
	var text strings.Builder
	first := 0
	for number, line := range strings.Split(s, "\n") {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") || line == "" {
			continue
		}
		if first == 0 {
			first = number + 1
		}
		rest, continued := strings.CutSuffix(line, `\`)
		text.WriteString(rest)
		text.WriteByte(' ')
		if continued {
			continue
		}
		if t := strings.TrimSpace(text.String()); t != "" {
			out = append(out, logicalLine{t, first})
		}
		text.Reset()
		first = 0
	}
	return out
}

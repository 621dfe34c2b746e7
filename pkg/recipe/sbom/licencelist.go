package sbom

import (
	"strings"

	"github.com/sandboxlabs/sandbox/pkg/pattern"
)

// listed are the identifiers of SPDX's list (spdx.org/licenses) that packages of
// the distributions and language registries use; one that is missing here
// becomes a LicenseRef, which is no mistake.
var listed = byLower(`
0BSD AFL-2.0 AFL-2.1 AFL-3.0 AGPL-1.0-only AGPL-1.0-or-later AGPL-3.0-only AGPL-3.0-or-later
Apache-1.0 Apache-1.1 Apache-2.0 APSL-2.0 Artistic-1.0 Artistic-1.0-cl8 Artistic-1.0-Perl Artistic-2.0
Beerware BlueOak-1.0.0 BSD-1-Clause BSD-2-Clause BSD-2-Clause-Patent BSD-2-Clause-Views BSD-3-Clause
BSD-3-Clause-Attribution BSD-3-Clause-Clear BSD-3-Clause-LBNL BSD-3-Clause-Modification BSD-4-Clause BSD-4-Clause-UC
BSD-4.3TAHOE BSD-Source-Code BSL-1.0 BUSL-1.1 bzip2-1.0.6 CC-BY-1.0 CC-BY-2.0 CC-BY-2.5 CC-BY-3.0 CC-BY-4.0
CC-BY-SA-1.0 CC-BY-SA-2.0 CC-BY-SA-2.5 CC-BY-SA-3.0 CC-BY-SA-4.0 CC-PDDC CC0-1.0 CDDL-1.0 CDDL-1.1 CECILL-2.1
CECILL-B CECILL-C CNRI-Python CPAL-1.0 CPL-1.0 curl ECL-2.0 EFL-2.0 Elastic-2.0 EPL-1.0 EPL-2.0 EUPL-1.1 EUPL-1.2
FSFAP FSFUL FSFULLR FSFULLRWD FTL GFDL-1.1-only GFDL-1.1-or-later GFDL-1.2-only GFDL-1.2-or-later
GFDL-1.2-no-invariants-only GFDL-1.2-no-invariants-or-later GFDL-1.3-only GFDL-1.3-or-later
GFDL-1.3-no-invariants-only GFDL-1.3-no-invariants-or-later GPL-1.0-only GPL-1.0-or-later GPL-2.0-only
GPL-2.0-or-later GPL-3.0-only GPL-3.0-or-later HPND HPND-sell-variant IBM-pibs ICU IJG Info-ZIP Intel IPL-1.0 ISC
JSON Latex2e LGPL-2.0-only LGPL-2.0-or-later LGPL-2.1-only LGPL-2.1-or-later LGPL-3.0-only LGPL-3.0-or-later
Libpng libpng-2.0 libtiff Linux-OpenIB LPPL-1.3c MIT MIT-0 MIT-advertising MIT-CMU MIT-feh MIT-Modern-Variant
MIT-open-group MIT-Wu mpich2 MPL-1.0 MPL-1.1 MPL-2.0 MS-PL MS-RL MulanPSL-2.0 NAIST-2003
NCSA NIST-PD NTP OFL-1.0 OFL-1.1 OLDAP-2.8 OpenSSL OSL-2.1 OSL-3.0 PHP-3.0 PHP-3.01 PostgreSQL
PSF-2.0 Python-2.0 Python-2.0.1 QPL-1.0 Ruby SGI-B-2.0 SISSL Sleepycat SMLNJ SSH-OpenSSH SSH-short SSPL-1.0 TCL TCP-wrappers
TMate Unicode-3.0 Unicode-DFS-2015 Unicode-DFS-2016 Unlicense UPL-1.0 Vim W3C W3C-19980720 W3C-20150513
WTFPL X11 X11-distribute-modifications-variant XFree86-1.1 Xnet xpp Zed Zend-2.0 Zlib zlib-acknowledgement ZPL-1.1 ZPL-2.0 ZPL-2.1
`)

// listedExceptions are those that may follow WITH.
var listedExceptions = byLower(`
389-exception Autoconf-exception-2.0 Autoconf-exception-3.0 Autoconf-exception-generic Autoconf-exception-macro
Bison-exception-1.24 Bison-exception-2.2 Bootloader-exception Classpath-exception-2.0 CLISP-exception-2.0
cryptsetup-OpenSSL-exception eCos-exception-2.0 Font-exception-2.0 GCC-exception-2.0 GCC-exception-3.1
GNU-compiler-exception GStreamer-exception-2008 i2p-gpl-java-exception LGPL-3.0-linking-exception Libtool-exception
Linux-syscall-note LLVM-exception LZMA-exception OpenJDK-assembly-exception-1.0 openvpn-openssl-exception
Qt-GPL-exception-1.0 Qt-LGPL-exception-1.1 Swift-exception Texinfo-exception u-boot-exception-2.0
Universal-FOSS-exception-1.0 vsftpd-openssl-exception x11vnc-openssl-exception
`)

// aliases are other names for listed licences, in lower case: Debian's short names,
// what Python's classifiers and Java's manifests say.
var aliases = map[string]string{
	"expat": "MIT", "mit/x11": "MIT", "mit/expat": "MIT", "mit-style": "", "the mit license": "MIT",
	"apache": "", "apache 2": "Apache-2.0", "apache-2": "Apache-2.0", "apache 2.0": "Apache-2.0", "apache2": "Apache-2.0", "apache v2": "Apache-2.0",
	"asl 2.0": "Apache-2.0", "apache software license 2.0": "Apache-2.0", "apache software license - version 2.0": "Apache-2.0",
	"apache license 2.0": "Apache-2.0", "apache license, version 2.0": "Apache-2.0", "apache license version 2.0": "Apache-2.0",
	"the apache software license, version 2.0": "Apache-2.0", "the apache license, version 2.0": "Apache-2.0", "apache-2.0 license": "Apache-2.0",
	"http://www.apache.org/licenses/license-2.0": "Apache-2.0", "http://www.apache.org/licenses/license-2.0.txt": "Apache-2.0",
	"https://www.apache.org/licenses/license-2.0": "Apache-2.0", "https://www.apache.org/licenses/license-2.0.txt": "Apache-2.0",
	"http://opensource.org/licenses/mit": "MIT", "https://opensource.org/licenses/mit": "MIT", "http://www.opensource.org/licenses/mit-license.php": "MIT",
	"bsd-2": "BSD-2-Clause", "bsd-2-clauses": "BSD-2-Clause", "2-clause bsd": "BSD-2-Clause", "bsd 2-clause": "BSD-2-Clause", "simplified bsd": "BSD-2-Clause",
	"bsd-3": "BSD-3-Clause", "bsd-3-clauses": "BSD-3-Clause", "3-clause bsd": "BSD-3-Clause", "bsd 3-clause": "BSD-3-Clause", "new bsd": "BSD-3-Clause",
	"bsd (3-clause)": "BSD-3-Clause", "modified bsd": "BSD-3-Clause", "revised bsd": "BSD-3-Clause", "bsd-4": "BSD-4-Clause", "bsd-4-clause": "BSD-4-Clause",
	"artistic": "Artistic-1.0-Perl", "artistic-1": "Artistic-1.0", "artistic-2": "Artistic-2.0",
	"psf": "PSF-2.0", "psf-2": "PSF-2.0", "psfl": "PSF-2.0", "python software foundation": "PSF-2.0", "python software foundation license": "PSF-2.0",
	"mpl 2.0": "MPL-2.0", "mpl-2": "MPL-2.0", "mpl2": "MPL-2.0", "mozilla public license 2.0": "MPL-2.0", "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
	"mozilla public license, version 2.0": "MPL-2.0", "isc license (iscl)": "ISC", "isc": "ISC", "iscl": "ISC", "zlib/libpng": "Zlib",
	"boost": "BSL-1.0", "boost-1.0": "BSL-1.0", "boost software license 1.0 (bsl-1.0)": "BSL-1.0", "cc0": "CC0-1.0", "cc-0": "CC0-1.0",
	"the unlicense (unlicense)": "Unlicense", "the unlicense": "Unlicense", "wtfpl-2": "WTFPL", "w3c software": "W3C",
	"eclipse public license 2.0": "EPL-2.0", "eclipse public license - v 2.0": "EPL-2.0", "eclipse public license v2.0": "EPL-2.0", "eclipse public license 2.0 (epl-2.0)": "EPL-2.0",
	"eclipse public license 1.0": "EPL-1.0", "eclipse public license - v 1.0": "EPL-1.0", "epl 2.0": "EPL-2.0", "epl 1.0": "EPL-1.0",
	"cddl-1": "CDDL-1.0", "zpl": "ZPL-2.1", "zope public": "ZPL-2.1", "openldap-2.8": "OLDAP-2.8", "ofl": "OFL-1.1", "sil open font license 1.1": "OFL-1.1",
	"ijg": "IJG", "ftl": "FTL", "icu": "ICU", "unicode": "Unicode-DFS-2016", "unlicense": "Unlicense", "ncsa": "NCSA", "curl": "curl", "vim": "Vim", "tcl": "TCL",
	"gnu general public license v2 (gplv2)": "GPL-2.0-only", "gnu general public license v2 or later (gplv2+)": "GPL-2.0-or-later",
	"gnu general public license v3 (gplv3)": "GPL-3.0-only", "gnu general public license v3 or later (gplv3+)": "GPL-3.0-or-later",
	"gnu lesser general public license v2 (lgplv2)": "LGPL-2.0-only", "gnu lesser general public license v2 or later (lgplv2+)": "LGPL-2.0-or-later",
	"gnu lesser general public license v3 (lgplv3)": "LGPL-3.0-only", "gnu lesser general public license v3 or later (lgplv3+)": "LGPL-3.0-or-later",
	"gnu affero general public license v3": "AGPL-3.0-only", "gnu affero general public license v3 or later (agplv3+)": "AGPL-3.0-or-later",
	"gpl": "GPL-1.0-or-later", "lgpl": "LGPL-2.0-or-later",
}

// exceptionAliases are Debian's names for exceptions, in lower case.
var exceptionAliases = map[string]string{
	"autoconf exception": "Autoconf-exception-generic", "autoconf-data exception": "Autoconf-exception-generic", "autoconf": "Autoconf-exception-generic",
	"bison exception": "Bison-exception-2.2", "classpath exception": "Classpath-exception-2.0", "classpath": "Classpath-exception-2.0",
	"font exception": "Font-exception-2.0", "font": "Font-exception-2.0", "gcc exception": "GCC-exception-3.1", "gcc runtime library exception": "GCC-exception-3.1",
	"libtool exception": "Libtool-exception", "libtool": "Libtool-exception", "linux-syscall-note": "Linux-syscall-note", "texinfo exception": "Texinfo-exception",
	"llvm exception": "LLVM-exception",
}

func byLower(words string) map[string]string {
	all := map[string]string{}
	for _, w := range strings.Fields(words) {
		all[strings.ToLower(w)] = w
	}
	return all
}

// gnu are the ways in which the licences of the GNU project are written: GPL-2+,
// LGPLv2.1, AGPL-3.0-only, GFDL-NIV-1.3+.
var gnu = pattern.New(`^(?:gnu )?(a?gpl|lgpl|gfdl)(-niv|-no-invariants)?[- ]?v?\.?(\d)(?:\.(\d))?(?:\.0)?(\+|-or-later| or later|-only| only)?$`)

// listedID returns the identifier of a licence that is on the list, whatever it is
// called.
func listedID(name string) (string, bool) {
	name = strings.Join(strings.Fields(strings.ToLower(name)), " ")
	for _, try := range []string{name, strings.TrimSuffix(strings.TrimSuffix(name, " license"), " licence")} {
		if id, ok := listed[try]; ok {
			return id, true
		}
		if id := aliases[try]; id != "" {
			return id, true
		}
		m := gnu.FindStringSubmatch(try)
		if m == nil {
			continue
		}
		minor := firstOf(m[4], "0")
		id := strings.ToUpper(m[1]) + "-" + m[3] + "." + minor
		if m[2] != "" {
			id += "-no-invariants"
		}
		if m[5] == "+" || strings.HasSuffix(m[5], "later") {
			id += "-or-later"
		} else {
			id += "-only"
		}
		if id, ok := listed[strings.ToLower(id)]; ok {
			return id, true
		}
	}
	return "", false
}

func listedException(name string) (string, bool) {
	name = strings.Join(strings.Fields(strings.ToLower(name)), " ")
	if id, ok := listedExceptions[name]; ok {
		return id, true
	}
	id, ok := exceptionAliases[name]
	return id, ok
}

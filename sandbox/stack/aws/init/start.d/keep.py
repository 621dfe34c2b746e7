# Run by LocalStack before it listens; see the package keep beside this folder.
import sys

sys.path.insert(0, "/etc/localstack/init")

import keep  # noqa: E402

keep.install()

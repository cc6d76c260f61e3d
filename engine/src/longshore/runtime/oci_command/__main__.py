"""python -m longshore.runtime.oci_command"""

import sys

from longshore.runtime import sealed

sys.exit(sealed.main())

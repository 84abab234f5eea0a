"""Run a reference again and again, each time in a process of its own that need not import it all.

    python warm.py SCRIPT

What a script imports takes seconds, often longer than its work. This process does it once. Then
each line of its input, a json list, is the folder and the arguments of one run of the script, in a
fork of this process. The answer is a line with the exit code of that run. What the script
prints goes to stderr.

The forks share nothing but what was there after the last import, as in a process of their own.
"""

import ast
import json
import os
import runpy
import sys
from pathlib import Path

script = sys.argv[1]
answers = os.fdopen(os.dup(1), 'w')
os.dup2(2, 1)
statements = ast.parse(Path(script).read_text()).body
imports = [isinstance(each, (ast.Import, ast.ImportFrom)) for each in statements]
last = max(number for number, is_import in enumerate(imports) if is_import)
start = ast.Module(statements[: last + 1], [])
exec(compile(start, script, 'exec'), {'__file__': script})

for line in sys.stdin:
    process = os.fork()
    if not process:
        folder, *sys.argv[1:] = json.loads(line)
        os.chdir(folder)
        runpy.run_path(script, run_name='__main__')
        sys.exit()
    _, status = os.waitpid(process, 0)
    print(os.waitstatus_to_exitcode(status), file=answers, flush=True)

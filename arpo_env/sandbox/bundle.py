"""Packs the code of ``inside`` into one message, so that it runs where this repository cannot be seen."""

from __future__ import annotations

import functools
from pathlib import Path

#: What every interpreter inside is started with: read one frame, make its modules, run one of them.
STUB = """\
import json,os,sys,types
def _read(fd,n):
 b=b''
 while len(b)<n:
  p=os.read(fd,n-len(b))
  if not p: os._exit(0)
  b+=p
 return b
_r,_w=int(sys.argv[1]),int(sys.argv[2])
_m=json.loads(_read(_r,int.from_bytes(_read(_r,4),'big')))
_p=sys.modules['arpo_inside']=types.ModuleType('arpo_inside')
_p.__path__=[]
for _n,_s in _m['bundle']:
 _k=types.ModuleType('arpo_inside.'+_n);_k.__package__='arpo_inside'
 sys.modules[_k.__name__]=_k;setattr(_p,_n,_k)
 exec(compile(_s,'<arpo_inside.'+_n+'>','exec'),_k.__dict__)
_c=_m['config']
if 'bundle' in _c: _c['bundle']=_m['bundle']
sys.modules['arpo_inside.'+_m['entry']].main(_r,_w,_c)
"""

#: In the order they import each other.
_MODULES = {
    "enter": ("sysapi", "wire", "enter"),
    "supervisor": ("sysapi", "wire", "landlock", "seccomp", "holes", "clonefd", "clonemaps", "capture", "tree", "cell",
                   "session", "places", "census", "records", "judge", "supervisor"),
}  # fmt: skip


@functools.cache
def modules(entry: str) -> list[list[str]]:
    """Names and sources of what ``entry`` (``enter`` or ``supervisor``) needs."""
    here = Path(__file__).parent / "inside"
    return [[name, (here / f"{name}.py").read_text("utf-8")] for name in _MODULES[entry]]

"""The kernel's side of the JupyterLab panel: what it shows, and what it may ask (extensions/esen-lab/PROTOCOL.md).

sections.py    a lab -> the sections of the panel, as plain data
messages.json  the schema of all messages, for both sides; messages.py checks by it
talk.py        pages, numbered messages, patches, commands; one thread that sleeps without pages
targets.py     the two comm targets, registered while the extension is loaded
"""

"""What every server of this package is made of: limits of connections, who may ask, headers, JSON in and out.

| file | what it does |
|---|---|
| ``connection_limits`` | limits of connections in time and number, and of log messages |
| ``guard`` | refuses strangers before anything is read: other hosts, other origins; the headers of every answer |
| ``bodies`` | a bounded JSON object out of a request, and errors as JSON |
| ``listening`` | a listening socket, and uvicorn on it |
"""

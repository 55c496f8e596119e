"""The studio: one durable queue of videos, workers that make them, and the API that clients and the page use.

| file | what it does |
|---|---|
| ``limits`` | every limit of the server in one place |
| ``queue`` | ``VideoQueue``: videos in SQLite, their states, fair turns, recovery |
| ``queue_schema`` | its tables, and which video is next |
| ``folder`` | ``StudioFolder``: where files lie, who holds the folder |
| ``request`` | what a client asks for, read and checked |
| ``worker_settings`` | what a worker is told when it starts |
| ``worker`` | a process that makes and plans videos |
| ``ray_worker`` | the same on a node of a Ray cluster |
| ``loaded_models`` | models that stay loaded, and make way for others by memory |
| ``variants`` | thumbnail and sprite sheet; animation and frames when asked for |
| ``provenance`` | C2PA: a signed mark that a model made it |
| ``public_text`` | messages for clients, without paths of this machine |
| ``video_workers`` | ``VideoWorkers``: gives videos to workers, watches and replaces them |
| ``progress_board`` | where running videos are, in memory |
| ``uploads`` | files of clients on their way to the disk |
| ``decode_upload`` | a confined process that decodes uploads and writes them again |
| ``exports`` | variants that are made when somebody downloads them |
| ``keys`` | keys of users: created, revoked, with quotas |
| ``webhooks`` | tells a client's server that a video has ended |
| ``studio`` | ``Studio``: all of it together |
| ``api_errors`` | errors in OpenAI's shape |
| ``access`` | who is asking |
| ``form`` | fields and files of a request |
| ``video_object`` | a video as clients see it |
| ``schema`` | what bodies look like in the OpenAPI page |
| ``routing`` | routes as methods of a class |
| ``api`` | ``/v1/videos`` and ``/v1/models`` in OpenAI's shape |
| ``more_routes`` | plan, uploads, cancel, events, favourites, sessions, health |
| ``page_routes`` | the page for people, whose files lie in ``pages/`` |
| ``app`` | the web application |
"""
